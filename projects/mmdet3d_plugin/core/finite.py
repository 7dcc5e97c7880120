"""A model that does not compute numbers any more must say so, and for which sample."""


def require_finite(is_finite, img_metas, what):
    """Refuse to go on with numbers that are NaN or infinite: ranked by score, they would come before all detections.

    Args:
        is_finite (Tensor): (B,) bool, per sample.
        img_metas (list[dict]): B dicts, with the sample's token as ``sample_idx`` where it is known.
        what (str): what is not finite, in the plural.

    Raises:
        FloatingPointError: naming the samples that are not.
    """
    lost = [str(meta.get('sample_idx', f'number {index} of the batch'))
            for index, (fine, meta) in enumerate(zip(is_finite.tolist(), img_metas)) if not fine]
    if lost:
        raise FloatingPointError(f'{what} are not finite for sample {", ".join(lost)}. Allowed: finite numbers. Look '
                                 'for NaN or huge values in its points and images and in the weights of the checkpoint '
                                 '(a run that diverged), or try without half precision')
