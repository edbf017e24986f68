"""The ERG cut as WeightWatcher defines it, in exact arithmetic: a product, eigenvalue by eigenvalue."""

from fractions import Fraction


def erg_cut(eigenvalues):
    """Return (n_erg, erg_xmin): the first tail, from the top, whose product is below one."""
    values = [Fraction(float(value)) for value in eigenvalues]
    mean = sum(values) / len(values)
    product = Fraction(1)
    for count, value in enumerate(reversed(values), start=1):
        product *= value / mean
        if product < 1:
            return count, float(value)
    return len(values), float(values[0])
