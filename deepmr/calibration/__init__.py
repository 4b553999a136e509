from deepmr.calibration.report import report

__all__ = ["report"]
