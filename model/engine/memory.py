"""How much goes through the network at once where memory has run out before: less for a while, not for good."""

_PATIENCE, _MOST_PATIENCE = 16, 1024

OUT_OF_MEMORY = (
    "out of memory",  # CUDA's allocator, its driver and runtime; cudaMalloc of libraries
    "ErrorMemoryAllocation",
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER, cuFFT
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle's workspace found no room
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",  # with what could not be allocated behind it, in newer versions
    "Unable to find a valid cuDNN algorithm",  # none whose workspace has room
    "unable to find an engine to execute",
    "NVML_SUCCESS == r",  # the allocator, asking why there is no room, where NVML does not answer
    "can't allocate memory",  # torch's allocator on CPUs, on Linux and Windows
    "not enough memory",
    "bad_alloc",
    "could not create a memory",  # oneDNN
    "could not create a primitive",  # oneDNN, whose code or scratchpad found no room
    "could not execute a primitive",
)
"""Parts of the texts by which torch, and the libraries under it, say that memory did not suffice."""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch is about memory; other errors are reported, not tried again."""
    # oneDNN has no "primitive descriptor" for what it does not support.
    text = str(error).lower().replace("primitive descriptor", "descriptor")
    return isinstance(error, MemoryError) or any(part.lower() in text for part in OUT_OF_MEMORY)


class Budget:
    """Padded pixels that go through the network at once: `most`, less once memory did not suffice, then more again.

    Memory may have been short because of another process or a rare batch. So after some batches that went well twice as
    much is tried; where that fails, the next try comes after twice as many batches.
    """

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._patience = self._left = _PATIENCE
        self._grown = False

    def shrink(self, to: int) -> None:
        """A batch did not fit; smaller ones of `to` pixels come next."""
        if self._grown:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self.now, self._left, self._grown = to, self._patience, False

    def went_well(self) -> None:
        """A batch did fit."""
        if self.now >= self.most:
            return
        self._left -= 1
        if not self._left:
            self.now, self._left, self._grown = min(self.most, 2 * self.now), self._patience, True
