"""What each command does beside the pipeline: code, restore, verify, report, compare, export, measure speed."""
