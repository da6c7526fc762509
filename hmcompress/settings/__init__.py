"""What a user asks for: read with the line of every key, checked, frozen; which rule holds for which tensor."""
