"""What trees and patterns share: measured errors, prices, scales, how decoded matrices are held."""
