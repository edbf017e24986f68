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


def free_cumulants(moments):
    """Free cumulants by Speicher's recursion over non-crossing partitions.

    m_n = Σ_s κ_s Σ over i_1 + ... + i_s = n - s of m_{i_1} ... m_{i_s}, with m_0 = 1.
    """
    m = [1.0, *moments]

    def gaps(s, total):
        if s == 0:
            return 1.0 if total == 0 else 0.0
        return sum(m[i] * gaps(s - 1, total - i) for i in range(total + 1))

    kappas = []
    for n in range(1, len(m)):
        known = sum(kappas[s - 1] * gaps(s, n - s) for s in range(1, n))
        kappas.append(m[n] - known)
    return kappas
