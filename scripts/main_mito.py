"""The published name of main.py for the MitoEM volumes. It does the same as main.py."""

from main import main, run_command

if __name__ == "__main__":
    run_command(main)
