"""The published name of inference.py for the MitoEM volumes; the data decide how they are read."""

from inference import main, run_command

if __name__ == "__main__":
    run_command(main)
