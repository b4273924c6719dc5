from dlnjax.claims.proofs._certificate import Certificate

CERTIFICATES: tuple[Certificate, ...] = ()
