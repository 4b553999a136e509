# What the main process does before the first job and after the last.


onstart:
    if workflow.executor_plugin.name == "slurm":
        slurm.get_min_job_age()  # is remembered: see remedies.smk
        for job in takeover.cancel_jobs(Path.cwd()):
            logger.warning(
                f"Cancelled SLURM job {job} of an earlier run that was killed."
            )


onsuccess:
    from deepmr import failures, outputs

    failures.on_success(RESULTS)
    outputs.sweep(Path(RESULTS))


onerror:
    import sys
    from deepmr import failures

    logger.error(failures.on_error(log, RESULTS, sys.argv))
