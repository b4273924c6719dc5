"""Formulas in plain texts: what is one and what is not, and how it looks in LaTeX and in HTML."""

# ruff: noqa: RUF001

import html
import re

import pytest

import dlnjax as dln
from dlnjax._formulas import as_html, Formula, pieces
from dlnjax.claims.proofs import certificates
from dlnjax.figures import FIGURES

CLAIMS = [text for claim in dln.thesis.values() for text in (claim.statement, claim.note)]
SCOPES = [text for proof in certificates().values() for text in (proof.scope, proof.true_scope)]
CAPTIONS = [text for figure in FIGURES.values() for text in (figure.title, figure.text, figure.parameters)]
TEXTS = [*CLAIMS, *SCOPES, *CAPTIONS]


def as_tex(text):
    return "".join(f"${piece.tex}$" if isinstance(piece, Formula) else piece for piece in pieces(text))


@pytest.mark.parametrize(
    ("plain", "tex"),
    [
        ("W_p = Q_{p+1} Lambda Q_p^T, 0 <= p <= N-1", r"$W_{p} = Q_{p+1} \Lambda Q_{p}^{T}$, $0 \le p \le N-1$"),
        ("w = (w_0^-4 - 4t)^(-1/4)", "$w = (w_{0}^{-4} - 4t)^{-1/4}$"),
        ("W_{p+1}'^T W_p = q'^2", r"$W_{p+1}^{\prime T} W_{p} = q^{\prime 2}$"),
        ("f^[1]_ij = f_-+''", r"$f_{ij}^{[1]} = f_{\mp}^{\prime\prime}$"),
        ("dS/ds_i = sum_{j != i} s_j", r"$dS/ds_{i} = \sum_{j \ne i} s_{j}$"),
        ("the sum over j < k, lambda o G", r"the sum over $j < k$, $\lambda\circ G$"),
        ("sum (<A_i, X> - y_i)^2 where s < t", r"$\sum(\langle A_{i}, X\rangle - y_{i})^{2}$ where $s < t$"),
        ("B = [[5/2, a], [-a, 1]]", r"$B = \begin{pmatrix} 5/2 & a \\ -a & 1 \end{pmatrix}$"),
        ("L~^{-1} and A # B", r"$\tilde{L}^{-1}$ and $A \# B$"),
        ("W_N ... W_1, xi(U, I, ..., I)", r"$W_{N} \cdots W_{1}$, $\xi(U, I, \ldots, I)$"),
        ("g^BW at |W_1|^2, std^2 and 2^d d!", r"$g^{\mathrm{BW}}$ at $|W_{1}|^{2}$, $\mathrm{std}^{2}$ and $2^{d} d!$"),
        ("pi sqrt(6 tanh 3), sqrt 82", r"$\pi\sqrt{6 \tanh 3}$, $\sqrt{82}$"),
        ("N = 3 (d >= 2), size^-(1-2/N)", r"$N = 3$ ($d \ge 2$), $\mathrm{size}^{-(1-2/N)}$"),
        ("a 2 x 3 matrix A, a vector a", r"a $2 \times 3$ matrix $A$, a vector $a$"),
        ("A = B. A case. A is B: s I + a J", "$A = B$. A case. $A$ is $B$: $s I + a J$"),
        ("S_inf -> -inf, as 1/N-normalised", r"$S_{\infty} \to -\infty$, as $1/N$-normalised"),
        # What is no formula stays as it is, numbers alone and references too.
        ("Theorem 3.4.2 (2), (2.21)-(2.22), B3.1, Figure 4.5a: 2, 3", None),
        ("network_flow doesn't end at 8.4853 (4), and/or a log-ratio: a rank-one law of DOP853, s.e.", None),
        ("the sum of squares up to infinity - a half", None),
    ],
)
def test_formulas_are_found_and_written_in_latex(plain, tex):
    assert as_tex(plain) == (plain if tex is None else tex)


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("X_ij ~ N(0, 0.01^2)", "<i>X</i><sub>ij</sub> ~ <i>N</i>(0, 0.01<sup>2</sup>)"),
        ("to |dE| <= 1e-6 or t = 3e06", "to |d<i>E</i>| ≤ 10<sup>−6</sup> or <i>t</i> = 3·10<sup>6</sup>"),
        ("E_p - S_N/beta", "<i>E</i><sub>p</sub> − <i>S</i><sub>N</sub>/<i>β</i>"),
        ("sigma = (y/N)^N", "<i>σ</i> = (<i>y</i>/<i>N</i>)<sup>N</sup>"),
        ("N = 1 .. infinity", "<i>N</i> = 1, …, ∞"),
        ("sqrt(20 - 2 sqrt(82))", "√(20 − 2 √82)"),
        ("1/sqrt(N), sqrt(lambda_kl)", "1/√<i>N</i>, √<i>λ</i><sub>kl</sub>"),
        ("1 - X12 X21", "1 − <i>X</i><sub>12</sub> <i>X</i><sub>21</sub>"),
        ("W_p'^T, Z~", "<i>W</i><sub>p</sub>′<sup>T</sup>, <i>Z\u0303</i>"),
        ("(a) Means, in <em> of x < 1", "(a) Means, in &lt;em&gt; of <i>x</i> &lt; 1"),
        ("network_flow doesn't end", "network_flow doesn&#x27;t end"),
    ],
)
def test_formulas_are_written_in_html(plain, shown):
    assert as_html(plain) == shown


@pytest.mark.parametrize("texts", [CLAIMS, SCOPES, CAPTIONS], ids=["claims", "proofs", "captions"])
def test_no_formula_of_the_claims_and_figures_is_left_plain(texts):
    digits = lambda shown: re.sub(r"\D", "", shown)
    for text in texts:
        found = pieces(text)
        prose = "".join("#" if isinstance(piece, Formula) else piece for piece in found)
        left = re.findall(r"\S*[_^=*{}\[\]]\S*|\b(?:sigma|lambda|beta|alpha|sqrt|inf|dE)\b|<=|>=|->", prose)
        assert set(left) <= {"network_flow", "gradient_flow,", "(gauge=True)."}, text
        formulas = [piece for piece in found if isinstance(piece, Formula)]
        assert all(formula.tex.count("{") == formula.tex.count("}") for formula in formulas), text
        # Nothing is lost: the digits of the text are those of its HTML, but for powers of ten.
        if not re.search(r"\de-?\d", text):
            assert digits(html.unescape(re.sub("<.*?>", "", as_html(text)))) == digits(text), text


def test_every_formula_can_be_drawn():
    to_mathml = pytest.importorskip("latex2mathml.converter").convert
    for text in TEXTS:
        for piece in pieces(text):
            assert not isinstance(piece, Formula) or "<merror" not in to_mathml(piece.tex)
