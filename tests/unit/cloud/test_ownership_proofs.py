"""Proofs of ownership: a good one says who signed in at which machine; whatever is wrong with one, it is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import ProofRefused
from kachery_cloud.ownership.claims import Malformed, client_claims, commitment, from_base64url, key_in, to_base64url
from kachery_cloud.ownership.proofs import Proof, make_proof, read_proof
from kachery_cloud.ownership.verifying import Owner, Policy, key_name, verify
from tests.helpers.proofs import (
    CLIENT,
    EC,
    GOT,
    ISSUER,
    ME,
    OTHER,
    RSA,
    SIGNED_IN,
    STRANGER,
    good,
    issuers,
    proof,
)

PARTS = [field.name for field in fields(Proof)]


def refused(found: Proof, *, peer: str = ME.peer_id, now: float = GOT, **more: Any) -> str:
    known = more.pop("issuers", None) or issuers()
    with pytest.raises(ProofRefused) as caught:
        verify(found, peer, known, now, more.pop("policy", None))
    assert str(caught.value).endswith(".")
    return caught.value.reason


def test_a_good_proof_says_who_signed_in() -> None:
    """The user, when, and at which application; years later, too, where no age is asked for."""
    owner = Owner(ME.peer_id, ISSUER, "1234", "Ada Lovelace", "ada@example.org", SIGNED_IN, CLIENT)
    assert verify(good(), ME.peer_id, issuers(), GOT) == owner
    assert verify(good(), ME.peer_id, issuers(), GOT + 10 * 365 * 86_400) == owner
    assert verify(proof(key=EC), ME.peer_id, issuers(), GOT) == owner


def test_it_is_a_pk_token_as_openpubkey_has_it() -> None:
    """Two signatures over the claims of the ID token; the nonce is the SHA3-256 of the client's protected header."""
    token = json.loads(json.dumps(good().to_json()))["pk_token"]
    claims = json.loads(base64.urlsafe_b64decode(token["payload"] + "=="))
    client = base64.urlsafe_b64decode(token["signatures"][1]["protected"] + "==")
    digest = hashlib.sha3_256(client).digest()
    assert claims["nonce"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert json.loads(client) == {
        "alg": "EdDSA",
        "rz": bytes(range(32)).hex(),
        "typ": "CIC",
        "upk": {"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "x": to_base64url(ME.public)},
    }


def test_a_proof_goes_through_json() -> None:
    """What is kept and sent is read as what it was."""
    assert read_proof(json.loads(json.dumps(good().to_json()))) == good()
    assert key_name(good()) == (ISSUER, "k1")


def test_for_another_key() -> None:
    """Neither another machine's proof, nor a token whose nonce commits to another key, nor a copied client part."""
    assert refused(good(), peer=OTHER.peer_id) == "PEER"
    assert refused(proof(nonce_of=OTHER)) == "NONCE"
    assert refused(proof(nonce=None)) == "NONCE"
    mine = proof(identity=OTHER)
    stolen = replace(good(), client=mine.client, client_signature=mine.client_signature)
    assert refused(stolen, peer=OTHER.peer_id) == "SIGNATURE"
    # Who has somebody's ID token, but not the key, cannot put it under his own.
    taken = make_proof(OTHER, client_claims(OTHER.public, bytes(32)), good().id_token, now=GOT)
    assert refused(taken, peer=OTHER.peer_id) == "NONCE"
    # Nor can he claim the key of another machine for himself.
    claimed = make_proof(OTHER, client_claims(ME.public, bytes(range(32))), good().id_token, now=GOT)
    assert refused(claimed) == "SIGNATURE"


def test_for_another_application() -> None:
    """Who signed in elsewhere has not agreed to anything here."""
    assert refused(proof(aud="other")) == "AUDIENCE"
    assert refused(proof(aud=[CLIENT, "other"])) == "AUDIENCE"
    assert refused(proof(aud=["other", CLIENT], azp="other")) == "AUDIENCE"
    assert refused(proof(azp="other")) == "AUDIENCE"
    assert refused(proof(aud=None)) == "AUDIENCE"
    assert refused(proof(aud=[[CLIENT]])) == "AUDIENCE"
    assert refused(good(), issuers=issuers(audiences=())) == "AUDIENCE"
    assert verify(proof(aud=["other", CLIENT], azp=CLIENT), ME.peer_id, issuers(), GOT).audience == CLIENT


def test_by_another_issuer() -> None:
    """Only issuers that are named, by their own keys; those that come from elsewhere do not count."""
    assert refused(proof(iss="https://evil.example.org")) == "ISSUER"
    assert refused(proof(iss=f"{ISSUER}/")) == "ISSUER"
    assert refused(proof(iss=["a"])) == "ISSUER"
    assert refused(proof(key=STRANGER)) == "SIGNATURE"
    assert refused(good(), issuers=issuers(STRANGER)) == "SIGNATURE"
    assert refused(good(), issuers=issuers(EC)) == "UNKNOWN_KEY"
    assert refused(proof(header={"kid": "k2"})) == "UNKNOWN_KEY"
    assert refused(proof(header={"kid": None})) == "UNKNOWN_KEY"


def test_of_two_keys_of_one_name_either_will_do() -> None:
    """An archive may have several: each is tried."""
    assert verify(good(), ME.peer_id, issuers(STRANGER, RSA), GOT).subject == "1234"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS384", ""])
def test_by_an_algorithm_that_proves_nothing(algorithm: str) -> None:
    """Unsigned, or with the public key as a shared secret, or by one that is not used."""
    if algorithm in ("", "None"):
        payload = good().payload
        header = to_base64url(json.dumps({"alg": algorithm, "kid": "k1"}).encode())
        changed = make_proof(ME, client_claims(ME.public, bytes(range(32))), f"{header}.{payload}.", now=GOT)
    else:
        changed = proof(header={"alg": algorithm})
    assert refused(changed) == "ALGORITHM"


def test_a_key_is_for_its_own_algorithm() -> None:
    """Shared secrets, keys for encryption, of another algorithm, or too short, are no keys of an issuer."""
    for change in ({"kty": "oct", "k": "AAAA"}, {"use": "enc"}, {"alg": "PS256"}, {"n": "AQAB"}, {"n": 5}, {"e": "?"}):
        known = issuers()
        key = {**known[ISSUER].keys[0], **change}
        assert refused(good(), issuers={ISSUER: replace(known[ISSUER], keys=(key,))}) == "UNKNOWN_KEY"


def test_what_the_client_signed_lies_within_the_life_of_the_token() -> None:
    """It had the token while that was good, give or take what clocks differ by."""
    for now in (SIGNED_IN - 299, SIGNED_IN, SIGNED_IN + 3600, SIGNED_IN + 3899):
        assert verify(proof(now=now), ME.peer_id, issuers(), SIGNED_IN + 5000).subject == "1234"
    for now in (SIGNED_IN - 301, SIGNED_IN + 3901):
        assert refused(proof(now=now), now=SIGNED_IN + 5000) == "TIME"
    assert refused(proof(exp=SIGNED_IN)) == "TIME"
    assert refused(good(), now=SIGNED_IN - 301) == "TIME"
    assert refused(proof(now=SIGNED_IN + 3600), now=SIGNED_IN) == "TIME"
    assert refused(proof(iat="now")) == "MALFORMED"
    assert refused(proof(exp=True)) == "MALFORMED"


def test_how_old_it_may_be_is_for_the_verifier_to_say() -> None:
    """The age counts from the sign-in."""
    policy = Policy(max_age=86_400)
    assert verify(good(), ME.peer_id, issuers(), SIGNED_IN + 86_400, policy).subject == "1234"
    assert refused(good(), now=SIGNED_IN + 86_701, policy=policy) == "TOO_OLD"


def test_an_address_that_nobody_verified_is_not_shown() -> None:
    """Anybody could have typed it. Names are cleaned, since they are shown on terminals."""
    assert verify(proof(email_verified=False), ME.peer_id, issuers(), GOT).email == ""
    assert verify(proof(email_verified="true"), ME.peer_id, issuers(), GOT).email == ""
    assert verify(proof(name="\x1b[2JEve", email=None), ME.peer_id, issuers(), GOT).name == "\\x1b[2JEve"
    assert verify(proof(name=["x"]), ME.peer_id, issuers(), GOT).name == ""
    assert refused(proof(sub=None)) == "MALFORMED"
    assert refused(proof(sub="")) == "MALFORMED"


@given(st.sampled_from(PARTS), st.data())
def test_no_part_can_be_altered(part: str, data: st.DataObject) -> None:
    """Whatever character of whatever part is changed, the proof is refused, and in a sentence."""
    text = getattr(good(), part)
    place = data.draw(st.integers(0, len(text) - 1))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\u00e9"
    char = data.draw(st.sampled_from(letters).filter(lambda char: char != text[place]))
    refused(replace(good(), **{part: text[:place] + char + text[place + 1 :]}))


@given(st.sampled_from(["sub", "email", "name", "aud", "iss", "iat", "exp", "nonce"]), st.text(max_size=30))
def test_no_claim_can_be_altered(name: str, value: str) -> None:
    """Other claims under the same signature are refused, also where the client signs them anew."""
    claims = {**good().claims, name: value}
    payload = to_base64url(json.dumps(claims).encode())
    token = f"{good().issuer}.{payload}.{good().issuer_signature}"
    refused(make_proof(ME, from_base64url(good().client, ""), token, now=GOT))


@given(st.sampled_from(PARTS), st.sampled_from(PARTS))
def test_parts_of_two_proofs_do_not_mix(one: str, two: str) -> None:
    """Parts of another proof of the same machine, by the same issuer, do not fit; all that are independent do."""
    other = proof(sub="5678", name="Somebody else")
    mixed = replace(good(), **{name: getattr(other, name) for name in (one, two)})
    if mixed not in (good(), other):
        refused(mixed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_whatever_is_no_proof_is_refused(value: Any) -> None:
    """Any JSON is either a proof by its form, or `Malformed`; never another error."""
    for given_value in (value, {"pk_token": value, "statement": "a.b.c"}, {**good().to_json(), "statement": value}):
        with pytest.raises(Malformed):
            read_proof(given_value)


@given(st.sampled_from(["payload", "issuer", "client", "statement"]), json_values)
def test_whatever_stands_in_a_part_is_refused(part: str, value: Any) -> None:
    """Any JSON as claims or headers is refused with a reason."""
    text = to_base64url(json.dumps(value).encode())
    if part == "statement":
        text = f"{text}.{text}.{text}"
    refused(replace(good(), **{part: text}))


def test_a_proof_has_bounds() -> None:
    """What is far longer than any ID token is not looked at."""
    long = good().to_json()
    long["pk_token"]["payload"] = "AAAA" * 10_000
    with pytest.raises(Malformed, match="more than 32,768"):
        read_proof(long)


def test_unsigned_headers_are_refused() -> None:
    """A signature has no part that is not signed."""
    value = good().to_json()
    value["pk_token"]["signatures"][0]["header"] = {"kid": "other"}
    with pytest.raises(Malformed, match="other parts"):
        read_proof(value)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_claims_have_the_key_in_them(public: bytes, random: bytes) -> None:
    """What commits to a key names it, and no two keys or sign-ins have one nonce."""
    claims = client_claims(public, random)
    assert key_in(claims) == public
    assert len(commitment(claims)) == 43
    assert commitment(claims) != commitment(client_claims(random, public)) or public == random
