"""How the sequences of a run are spread over jobs, and what a job asks for."""
