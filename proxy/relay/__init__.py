"""Pass-through: requests of clients that go to VB365, or to another worker, byte for byte."""
