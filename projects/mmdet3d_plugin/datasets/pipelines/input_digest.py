import hashlib

import numpy as np
from mmdet.datasets.builder import PIPELINES

_DECIMALS = 5  # of calibrations, whose last digits depend on the linear algebra of a machine


@PIPELINES.register_module()
class DigestInputs:
    """Note the contents of a sample as ``input_digest``, by which two machines can tell that they saw the same data.

    Its place is after :class:`SimulateFailure`. The digest is the SHA-256, in hex digits, of points, images and
    calibrations as they are there: what the sensors say, before anything that suits it to a network.
    """

    def __call__(self, results):
        digest = hashlib.sha256()
        arrays = [results['points'].tensor.numpy()] if 'points' in results else []
        arrays += results.get('img', [])
        for name in ('lidar2cam', 'cam_intrinsic'):
            arrays += [np.round(matrix, _DECIMALS) + 0.0 for matrix in results.get(name, [])]  # -0.0 becomes 0.0
        for array in arrays:
            digest.update(f'{array.dtype} {array.shape} '.encode())
            digest.update(np.ascontiguousarray(array))
        results['input_digest'] = digest.hexdigest()
        return results

    def __repr__(self):
        return f'{type(self).__name__}()'


def joint_digest(digests):
    """One digest of many samples, whatever their order.

    Args:
        digests (dict[str, str]): ``input_digest`` by sample token.
    """
    return hashlib.sha256(''.join(f'{token} {digests[token]}\n' for token in sorted(digests)).encode()).hexdigest()
