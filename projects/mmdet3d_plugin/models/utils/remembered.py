"""Results that are made once, and again when what they were made of has changed."""
import torch


class Remembered:
    """A function's last result, kept for as long as a state stays what it was."""

    def __init__(self):
        self._state = self._result = None

    def __call__(self, state, make):
        """The result for a state.

        Args:
            state: compares equal to the last one where the result would be the same. What mixed precision makes of the
                result is watched here.
            make (Callable): takes nothing, returns the result.
        """
        state = state, torch.is_inference_mode_enabled(), [
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) for device in ('cpu', 'cuda')]
        if state != self._state:
            self._state = None  # also if this raises
            self._result = make()
            self._state = state
        return self._result


def tensors_state(tensors):
    """Changes whenever one of the tensors does, as long as whoever remembers it keeps them alive."""
    return tuple((each.data_ptr(), 0 if each.is_inference() else each._version, each.shape, each.dtype)
                 for each in tensors)
