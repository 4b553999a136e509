from deepmr.mutagenesis.straight import Effects, saturate

__all__ = ["Effects", "saturate"]
