"""What tests are made with: builders of chains, ways to break files and processes, and programs that tests start."""
