//! Users' tokens: which are good, whom they name, and how public keys are kept up with.

use crate::jwt::{Signer, base64url, hmac_of, hs256, now, signed};
use quota_server::auth::{BadToken, Tokens};
use quota_server::config::ProductSecrets;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SECRET: &str = "a secret of 32 bytes and some more";

fn tokens(secrets: ProductSecrets) -> Tokens {
    Tokens::new([("shop".to_owned(), secrets)].into())
}

fn with_secret() -> Tokens {
    tokens(ProductSecrets {
        jwt_hs256: Some(SECRET.to_owned()),
        ..ProductSecrets::default()
    })
}

fn with_keys(place: &str) -> Tokens {
    tokens(ProductSecrets {
        jwks: Some(place.to_owned()),
        ..ProductSecrets::default()
    })
}

fn claims() -> Value {
    json!({"sub": "u1", "exp": now() + 60})
}

async fn told(tokens: &Tokens, token: &str) -> Result<String, BadToken> {
    tokens.subject("shop", token).await
}

#[tokio::test]
async fn a_token_is_good_in_its_time_and_names_a_subject() {
    let tokens = with_secret();
    let told = async |claims: Value| told(&tokens, &hs256(SECRET, &claims)).await;
    let (good, now) = (Ok("u1".to_owned()), now());
    assert_eq!(told(claims()).await, good);
    assert_eq!(
        told(json!({"sub": "u1", "exp": now + 60, "nbf": now - 1, "aud": "x", "iss": "y"})).await,
        good
    );
    assert_eq!(
        told(json!({"sub": "u1", "exp": now as f64 + 60.5})).await,
        good
    );
    for (bad, why) in [
        (json!({"sub": "u1", "exp": now - 5}), BadToken::Expired),
        (json!({"sub": "u1", "exp": 0}), BadToken::Expired),
        (json!({"sub": "u1"}), BadToken::Expired),
        (json!({"sub": "u1", "exp": null}), BadToken::Expired),
        (json!({"sub": "u1", "exp": "soon"}), BadToken::Expired),
        (json!({"sub": "u1", "exp": -1}), BadToken::Expired),
        (
            json!({"sub": "u1", "exp": now + 60, "nbf": now + 30}),
            BadToken::NotYet,
        ),
        (
            json!({"sub": "u1", "exp": now + 60, "nbf": "later"}),
            BadToken::NotYet,
        ),
        (json!({"exp": now + 60}), BadToken::NoSubject),
        (json!({"sub": "", "exp": now + 60}), BadToken::NoSubject),
        (json!({"sub": " u1", "exp": now + 60}), BadToken::NoSubject),
        (json!({"sub": "u\n1", "exp": now + 60}), BadToken::NoSubject),
        (json!({"sub": 7, "exp": now + 60}), BadToken::NoSubject),
        (
            json!({"sub": "u".repeat(129), "exp": now + 60}),
            BadToken::NoSubject,
        ),
        (json!([]), BadToken::NoSubject),
    ] {
        assert_eq!(told(bad.clone()).await, Err(why), "{bad}");
    }
}

/// Seen to fail with keys that are tried whatever name the token gives.
#[tokio::test]
async fn settings_choose_the_algorithm_and_no_token_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let (rsa, ec, ed) = (Signer::rsa(), Signer::ec(), Signer::ed());
    let all = [&rsa, &ec, &ed];
    let keys: Vec<Value> = all.iter().map(|key| key.jwk(key.alg())).collect();
    std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    let public = with_keys(file.to_str().unwrap());
    for key in all {
        let token = key.token(Some(key.alg()), &claims());
        assert_eq!(told(&public, &token).await, Ok("u1".to_owned()));
        assert_eq!(
            told(&public, &key.token(None, &claims())).await,
            Ok("u1".to_owned())
        );
        // The same product with a secret alone knows no public key.
        assert_eq!(told(&with_secret(), &token).await, Err(BadToken::Unknown));
        // A key under another's name, and another's algorithm in the header.
        let (other, header) = (all[0].alg(), json!({"alg": "PS256", "kid": key.alg()}));
        if other != key.alg() {
            assert_eq!(
                told(&public, &key.token(Some(other), &claims())).await,
                Err(BadToken::Unknown)
            );
        }
        let token = signed(&header, &claims(), |message| key.sign(message));
        assert_eq!(told(&public, &token).await, Err(BadToken::Unknown));
    }
    // A public key taken for a secret, in the forms that it is published in.
    let jwk = rsa.jwk("RS256");
    for secret in [jwk["n"].as_str().unwrap(), &jwk.to_string()] {
        let header = json!({"alg": "HS256", "kid": "RS256"});
        let token = signed(&header, &claims(), |message| {
            hmac_of(secret.as_bytes(), message)
        });
        assert_eq!(told(&public, &token).await, Err(BadToken::Unknown));
    }
    let good = hs256(SECRET, &claims());
    assert_eq!(
        told(&public, &good).await,
        Err(BadToken::Unknown),
        "there is no secret"
    );
    for tokens in [&public, &with_secret()] {
        for alg in ["none", "None", "HS384", "HS512", "ES384", "", "hs256"] {
            for signature in [Vec::new(), hmac_of(SECRET.as_bytes(), b"x")] {
                let token = signed(&json!({"alg": alg}), &claims(), |_| signature);
                assert_eq!(told(tokens, &token).await, Err(BadToken::Unknown), "{alg}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_token_or_was_changed_is_unknown() {
    let tokens = with_secret();
    let good = hs256(SECRET, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = parts[..] else {
        panic!()
    };
    let other = base64url(
        json!({"sub": "u2", "exp": now() + 60})
            .to_string()
            .as_bytes(),
    );
    let critical = signed(
        &json!({"alg": "HS256", "crit": ["b64"], "b64": true}),
        &claims(),
        |message| hmac_of(SECRET.as_bytes(), message),
    );
    for bad in [
        "",
        "..",
        "a.b.c",
        &format!("{header}.{other}.{signature}"),
        &format!("{header}.{body}."),
        &format!("{header}.{body}.{signature}A"),
        &format!("{header}.{body}.{}", &signature[1..]),
        &hs256("another secret", &claims()),
        &critical,
        &"A".repeat(100_000),
    ] {
        assert_eq!(told(&tokens, bad).await, Err(BadToken::Unknown), "{bad}");
    }
    assert_eq!(
        told(&self::tokens(ProductSecrets::default()), &good).await,
        Err(BadToken::NotSet)
    );
}

#[tokio::test]
async fn issuer_and_audience_are_asked_for_where_they_are_set() {
    let tokens = tokens(ProductSecrets {
        jwt_hs256: Some(SECRET.to_owned()),
        jwt_issuer: Some("https://id.example".to_owned()),
        jwt_audience: Some("shop".to_owned()),
        ..ProductSecrets::default()
    });
    let token = |iss: Value, aud: Value| {
        let mut claims = claims();
        claims["iss"] = iss;
        claims["aud"] = aud;
        hs256(SECRET, &claims)
    };
    let own = json!("https://id.example");
    for aud in [json!("shop"), json!(["other", "shop"])] {
        assert_eq!(
            told(&tokens, &token(own.clone(), aud)).await,
            Ok("u1".to_owned())
        );
    }
    for (iss, aud) in [
        (own.clone(), json!("other")),
        (own.clone(), json!([])),
        (own.clone(), json!(null)),
        (own.clone(), json!(7)),
        (json!("https://id.example/"), json!("shop")),
        (json!(null), json!("shop")),
    ] {
        assert_eq!(
            told(&tokens, &token(iss.clone(), aud.clone())).await,
            Err(BadToken::Elsewhere),
            "{iss} {aud}"
        );
    }
    assert_eq!(
        told(&tokens, &hs256(SECRET, &claims())).await,
        Err(BadToken::Elsewhere)
    );
}

/// A server of a key set, which counts how often it is asked.
struct KeyServer {
    url: String,
    /// None: it fails.
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let keys: Arc<Mutex<Option<Value>>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (serving, counted) = (keys.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                socket.read(&mut request).await.unwrap_or_default();
                counted.fetch_add(1, Ordering::SeqCst);
                let keys = serving
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let (status, body) = keys.map_or(("500 Oh", String::new()), |keys| {
                    ("200 OK", keys.to_string())
                });
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                socket
                    .write_all(answer.as_bytes())
                    .await
                    .unwrap_or_default();
            }
        });
        Self { url, keys, asked }
    }

    fn serve(&self, keys: Option<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Seen to fail with a set that is read once, and with one that is read again for every token that no key has signed.
#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_with_their_url() {
    let server = KeyServer::start().await;
    let (old, new) = (Signer::ec(), Signer::ed());
    let tokens = with_keys(&server.url);
    let good = |told: Result<String, BadToken>| told == Ok("u1".to_owned());
    let by = |key: &Signer, kid| key.token(Some(kid), &claims());
    server.serve(Some(
        json!({"keys": [old.jwk("old"), {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "new"}, 7]}),
    ));
    assert!(good(told(&tokens, &by(&old, "old")).await));
    assert_eq!(server.asked(), 1);
    assert!(good(told(&tokens, &by(&old, "old")).await));
    assert_eq!(server.asked(), 1, "what is known is not asked for again");

    server.serve(Some(json!({"keys": [new.jwk("new")]})));
    assert!(
        good(told(&tokens, &by(&old, "old")).await),
        "nobody has asked yet"
    );
    assert!(
        good(told(&tokens, &by(&new, "new")).await),
        "a new key is found at once"
    );
    assert_eq!(server.asked(), 2);
    assert_eq!(
        told(&tokens, &by(&old, "old")).await,
        Err(BadToken::Unknown),
        "an old one is gone"
    );

    let asking = (0..50).map(|n| {
        let token = by(&old, if n % 2 == 0 { "old" } else { "made-up" });
        let tokens = &tokens;
        async move { told(tokens, &token).await }
    });
    for told in futures::future::join_all(asking).await {
        assert_eq!(told, Err(BadToken::Unknown));
    }
    assert_eq!(server.asked(), 2, "made-up tokens make nobody ask");

    server.serve(None);
    tokio::time::sleep(std::time::Duration::from_millis(5_200)).await;
    assert_eq!(
        told(&tokens, &by(&old, "old")).await,
        Err(BadToken::Unknown)
    );
    assert_eq!(server.asked(), 3);
    assert!(
        good(told(&tokens, &by(&new, "new")).await),
        "a server that fails takes no key away"
    );
}

#[tokio::test]
async fn a_set_that_cannot_be_read_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let key = Signer::ec();
    let many: Vec<Value> = (0..65).map(|n| key.jwk(&n.to_string())).collect();
    let big = json!({"keys": [key.jwk("1")], "x": "x".repeat(300_000)});
    for (name, text) in [
        ("none", "{}".to_owned()),
        ("text", "hello".to_owned()),
        ("many", json!({"keys": many}).to_string()),
        ("big", big.to_string()),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let tokens = with_keys(file.to_str().unwrap());
        assert_eq!(
            told(&tokens, &key.token(Some("1"), &claims())).await,
            Err(BadToken::Unknown),
            "{name}"
        );
    }
    let tokens = with_keys("/no/such/file");
    assert_eq!(
        told(&tokens, &key.token(None, &claims())).await,
        Err(BadToken::Unknown)
    );
}
