"""A failure case, which configs and command lines name by a text such as 'fov:60+stale_views:3@2'."""
import difflib
import hashlib
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

from ...core.failure_record import FailureRecord
from .registry import CLEAN, FAILURES

# Test data have these only if told to load them; failures that need them check for them on their own.
LOADED_ON_REQUEST = ('rings', 'boxes')
_LONGEST_NAME = 100  # characters in a file name


class CasePart(NamedTuple):
    """One failure of a case: its name, its argument as text ('' for none), its severity (None for none), and itself."""

    name: str
    argument: str
    severity: Optional[int]
    failure: Any

    def __str__(self):
        return f'{self.name}{":" * bool(self.argument)}{self.how}'

    @property
    def how(self):
        """str: what follows the name."""
        return self.argument if self.severity is None else f'{self.argument}@{self.severity}'


@dataclass(frozen=True)
class FailureCase:
    """Failures that strike a sample one after the other, none for 'clean'.

    Cases are equal where their texts are. See :meth:`parse`.

    Attributes:
        parts: tuple of CasePart.
    """

    parts: Tuple[CasePart, ...] = ()

    @classmethod
    def parse(cls, text):
        """Read a case.

        Args:
            text (str | FailureCase): 'clean', or different failures joined by '+', each a name of ``FAILURES`` and,
                where it takes them, ':' and its argument, '@' and its severity. A FailureCase is returned as it is.

        Raises:
            ValueError: for names, arguments and severities that do not exist, naming what is allowed; for a failure
                that is named twice.
        """
        if isinstance(text, cls):
            return text
        if text == CLEAN:
            return cls()
        parts = tuple(cls._part(text, part) for part in str(text).split('+'))
        names = [part.name for part in parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:  # a record has one severity and one set of details for each name
            raise ValueError(f'case {text!r}: a failure strikes once, it names {twice} more often')
        return cls(parts)

    @staticmethod
    def _part(case, text):
        def refuse(problem, cause=None):
            raise ValueError(f'case {case!r}: {problem}; allowed: {case_help()}') from cause

        before, at, level = text.partition('@')
        name, colon, argument = before.partition(':')
        known = FAILURES.get(name)
        if known is None:
            close = [each for each in FAILURES if name in each.split('_')] or difflib.get_close_matches(name, FAILURES)
            refuse(f'{text!r} is no failure' + f' (did you mean {" or ".join(close)}?)' * bool(close))
        if known.needs_argument > bool(colon) or known.takes_argument < bool(colon):
            refuse(f'{name} takes {"an" if known.takes_argument else "no"} argument')
        if bool(known.severities) != bool(at) or (at and level not in map(str, known.severities)):
            raise ValueError(f'case {case!r}: {name} has {"the severities " if known.severities else "no severities"}'
                             f'{", ".join(f"@{each}" for each in known.severities)}, got {text!r}')
        if re.fullmatch(r'[0-9_]*_[0-9_]*', argument):  # which int() would read
            refuse(f'{argument!r} is no number')
        severity = int(level) if at else None
        try:
            failure = known.make(*[argument] * bool(colon), **(dict(severity=severity) if at else {}))
        except ValueError as error:
            refuse(error, error)
        return CasePart(name, '' if known.is_default(argument) else _same_number(argument), severity, failure)

    def __str__(self):
        return '+'.join(map(str, self.parts)) or CLEAN

    def __eq__(self, other):
        return isinstance(other, FailureCase) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))

    @property
    def is_clean(self):
        return not self.parts

    @property
    def failures(self):
        """list: the failures, in the order in which they strike."""
        return [part.failure for part in self.parts]

    @property
    def kinds(self):
        """tuple[str]: names of the failures, sorted; cases of the same kinds differ in severity alone."""
        return tuple(sorted(part.name for part in self.parts))

    @property
    def severity(self):
        """str: the arguments and severities of the failures, which say how badly they strike."""
        return '+'.join(part.how for part in self.parts)

    @property
    def needs(self):
        """frozenset[str]: all that its failures need, see ``register_failure``."""
        return frozenset(need for failure in self.failures for need in failure.needs)

    @property
    def label(self):
        """str: the case for axes of plots, a failure a line."""
        return '\n+ '.join(map(str, self.parts)) or CLEAN

    @property
    def file_name(self):
        """str: the case as part of a file name: no folder, not long, another one for every case."""
        name = str(self).replace(':', '_').replace(',', '-').replace('@', '_at_')
        plain = re.sub(r'[^\w.+-]', '-', name)[:_LONGEST_NAME]
        if plain == name:
            return name
        return f'{plain}-{hashlib.sha256(str(self).encode()).hexdigest()[:8]}'

    def strike(self, results, *seed):
        """Let the case strike a sample.

        Args:
            results (dict): a sample after its loaders; changed in place, arrays and images are replaced.
            *seed (int): further numbers the draw depends on, beside ``results['sample_idx']`` and the case.

        Returns:
            FailureRecord: its ``details`` have the number of points before and after; ``spared`` names the failures
            of the case that changed nothing.

        Raises:
            ValueError: for a case that the sample lacks the sensors for, or that cannot strike it, naming both.
        """
        rng = failure_rng(results['sample_idx'], self, *seed)
        record = FailureRecord(case=str(self), seed=seed)
        if 'img' in results:
            record = record.joined(views_lost=np.zeros(len(results['img']), dtype=bool))
        if 'points' in results:
            record = record.joined(details=dict(points_before=len(results['points'])))
        for part in self.parts:
            failure = part.failure
            missing = [key for key in failure.needs if key not in results and key not in LOADED_ON_REQUEST]
            if missing:
                raise ValueError(f'case {str(self)!r} needs {missing}, which the sample lacks; it has '
                                 f'{sorted(results)}')
            before = dict(results)  # failures replace arrays and write into none
            try:
                record = record.joined(**failure.apply(results, rng))
            except ValueError as error:
                raise ValueError(f'case {str(self)!r}, sample {results["sample_idx"]!r}: {error}') from error
            changed = _changed_sensors(before, results)
            record = record.joined(changed=record.changed | changed)
            if not changed:
                record = record.joined(spared=(*record.spared, part.name))
            if part.severity is not None:
                record = record.joined(severities={part.name: part.severity})
        if 'points' in results:
            record = record.joined(details=dict(points_after=len(results['points'])))
        return record


def case_help():
    """str: which cases there are, with examples of their arguments."""
    return f'{CLEAN}, {", ".join(known.usage for known in FAILURES.values())}; several different ones joined by +'


def failure_rng(token, case, *seed):
    """Random generator that depends on a sample's token, the case and the seed alone, on every machine alike."""
    digest = hashlib.sha256('|'.join(map(str, (token, case, *seed))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype='<u4'))


def _changed_sensors(before, after):
    """frozenset[str]: 'lidar' where points of a sample are not those from before, 'camera' where images or calibrations
    are not.
    """
    pairs = [('lidar', before['points'].tensor, after['points'].tensor)] if 'points' in before else []
    for key in ('img', 'lidar2cam', 'lidar2img'):
        pairs += [('camera', *pair) for pair in zip(before.get(key, ()), after.get(key, ()))]
    return frozenset(sensor for sensor, old, new in pairs if old is not new and not np.array_equal(old, new))


def _same_number(argument):
    """One way to write each number (60.0 -> 60); anything else stays as it is."""
    try:
        return repr(float(argument)).removesuffix('.0')
    except ValueError:  # names of cameras, or nothing
        return argument
