"""A bench for CXL Dynamic Capacity: see README.md."""
