//! TLS on the public listener: what it starts with, what it says to whom, and new certificates.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::limits::a_slow_client_is_disconnected_and_harms_nobody;
use crate::support::{
    Authority, Frame, Pair, Server, Socket, Wire, get, pubsub, request, request_over, server, tablecast,
    until,
};

fn failures(server: &Server, reason: &str) -> f64 {
    server.metric(&format!(r#"tablecast_tls_handshakes_failed_total{{reason="{reason}"}}"#))
}

/// A new client is shown a pair's certificate.
fn shows(server: &Server, authority: &Authority, pair: &Pair) -> bool {
    server.connect_over_tls(authority).wire().certificate() == &pair.der
}

#[test]
fn a_browser_gets_messages_over_both_versions() {
    let authority = Authority::new();
    let server = server().open().with_tls(&authority.issue()).start();
    let line = format!("listening on wss://{}/cable, for workers and operators on http://", server.public);
    assert!(server.said[0].starts_with(&line), "{:?}", server.said);

    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let wire = Wire::tls(server.public, authority.client_of(version));
        let mut socket = Socket::try_open_over(wire, server.public, "/cable", &[]);
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
        assert_eq!(socket.wire().connection().protocol_version(), Some(name));
        socket.subscribe(&pubsub("s"));
        assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
        assert_eq!(socket.message(&pubsub("s")), "1");
        server.insert("s", "2");
        assert_eq!(socket.message(&pubsub("s")), "2");
        socket.close();
        assert_eq!(socket.next(), Frame::Close(1000, String::new()));
        assert_eq!(socket.next(), Frame::End);
    }
}

#[test]
fn https_is_answered_beside_the_websocket_and_the_internal_listener_stays_plain() {
    let authority = Authority::new();
    let options = ["--publish-key=k", "--public-publish"];
    let server = options
        .into_iter()
        .fold(server(), |server, option| server.arg(option))
        .with_tls(&authority.issue())
        .start();
    let wire = || Wire::tls(server.public, authority.client_for(&["h2", "http/1.1"]));

    let health = request_over(wire(), server.public, "GET", "/health", &[], b"");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let headers = [("Authorization", "Bearer k"), ("Content-Type", "application/json")];
    let body = br#"{"stream":"s","data":1}"#;
    assert_eq!(request_over(wire(), server.public, "POST", "/broadcast", &headers, body).status, 201);
    assert!(server.said[2].contains(&format!("publishing at https://{} with a key", server.public)));
    assert_eq!(request(server.internal, "POST", "/broadcast", &headers, body).status, 201);
}

#[test]
fn watch_is_a_client_over_tls() {
    let authority = Authority::new();
    let server = server().open().with_tls(&authority.issue()).start();
    let root = server.folder().join("root.pem");
    fs::write(&root, &authority.pem).unwrap();
    let url = format!("wss://localhost:{}/cable", server.public.port());
    let mut watch = tablecast()
        .args(["watch", "s", "--count=1", "--url", &url])
        .env("SSL_CERT_FILE", &root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("it is subscribed", || server.metric("tablecast_subscriptions") == 1.0);
    server.insert("s", "1");
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"stream\":\"s\",\"data\":1}\n");
    assert!(watch.wait().unwrap().success());
}

#[test]
fn a_client_that_comes_back_is_spared_most_of_the_handshake() {
    let authority = Authority::new();
    let server = server().with_tls(&authority.issue()).start();
    let kind = |socket: &mut Socket| socket.wire().connection().handshake_kind();

    assert_eq!(kind(&mut server.connect_over_tls(&authority)), Some(HandshakeKind::Full));
    assert_eq!(kind(&mut server.connect_over_tls(&authority)), Some(HandshakeKind::Resumed));
}

#[test]
fn the_largest_message_and_long_arrays_arrive_whole() {
    let authority = Authority::new();
    let server = server().open().with_tls(&authority.issue()).start();
    let mut socket = server.connect_over_tls(&authority);
    socket.subscribe(&pubsub("s"));

    let payload = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    for _ in 0..3 {
        assert_eq!(server.publish(&format!(r#"{{"stream":"s","data":{payload}}}"#)).status, 201);
        assert_eq!(socket.message(&pubsub("s")), payload);
    }
    let text = "y".repeat(7000);
    let items: Vec<String> =
        (0..1000).map(|n| format!(r#"{{"stream":"s","data":[{n},"{text}"]}}"#)).collect();
    let array = format!("[{}]", items.join(","));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(server.publish(&array).status, 201));
        for n in 0..1000 {
            assert_eq!(socket.message(&pubsub("s")), format!(r#"[{n},"{text}"]"#));
        }
    });
}

/// Replaces the pair in one of the ways that it is done in; the old connection goes on, the next
/// one meets the new certificate.
fn is_replaced(layout: impl Fn(&Path, &Pair), paths: [&str; 2], replace: impl Fn(&Server, &Pair)) {
    let authority = Authority::new();
    let (old, new) = (authority.issue(), authority.issue());
    let builder = server().open();
    layout(builder.folder(), &old);
    let server =
        builder.arg(&format!("--tls-cert={}", paths[0])).arg(&format!("--tls-key={}", paths[1])).start();
    let mut connected = server.connect_over_tls(&authority);
    assert_eq!(connected.wire().certificate(), &old.der);
    connected.subscribe(&pubsub("s"));

    replace(&server, &new);

    until("the new certificate is shown", || shows(&server, &authority, &new));
    server.insert("s", "1");
    assert_eq!(connected.message(&pubsub("s")), "1");
    let line = "new connections get a certificate for localhost, good until 4096-01-01T00:00:00Z";
    until("it is logged", || server.log().contains(line));
    // More reports of the same change are no other change.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(server.log().matches(line).count(), 1);
}

fn plain_files(folder: &Path, pair: &Pair) {
    pair.write(folder);
}

#[test]
fn a_renamed_pair_is_taken() {
    is_replaced(plain_files, ["cert.pem", "key.pem"], |server, pair| {
        let staging = server.folder().join("staging");
        fs::create_dir(&staging).unwrap();
        pair.write(&staging);
        for name in ["cert.pem", "key.pem"] {
            fs::rename(staging.join(name), server.folder().join(name)).unwrap();
        }
    });
}

#[test]
fn a_pair_that_is_written_over_is_taken() {
    is_replaced(plain_files, ["cert.pem", "key.pem"], |server, pair| pair.write(server.folder()));
}

/// One file in `live`, which is a link into `archive`, for each of the pair's.
#[test]
fn certbots_links_are_followed() {
    let links = |folder: &Path, pair: &Pair| {
        let number = fs::read_dir(folder.join("archive")).map_or(1, |files| 1 + files.count() / 2);
        for name in ["archive", "live"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for (name, text) in [("fullchain", &pair.certificate), ("privkey", &pair.key)] {
            fs::write(folder.join(format!("archive/{name}{number}.pem")), text).unwrap();
            let link = folder.join(format!("live/{name}.pem"));
            let _ = fs::remove_file(&link);
            symlink(format!("../archive/{name}{number}.pem"), link).unwrap();
        }
    };
    is_replaced(links, ["live/fullchain.pem", "live/privkey.pem"], |server, pair| {
        links(server.folder(), pair)
    });
}

/// `tls.crt` -> `..data/tls.crt`, and `..data` -> a folder with a date for its name.
fn kubernetes_volume(folder: &Path, pair: &Pair) {
    let volume = folder.join("tls");
    let version = format!("..version{}", fs::read_dir(&volume).map_or(0, Iterator::count));
    fs::create_dir_all(volume.join(&version)).unwrap();
    fs::write(volume.join(&version).join("tls.crt"), &pair.certificate).unwrap();
    fs::write(volume.join(&version).join("tls.key"), &pair.key).unwrap();
    symlink(&version, volume.join("..data_tmp")).unwrap();
    let before = fs::read_link(volume.join("..data"));
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        let _ = symlink(format!("..data/{name}"), volume.join(name));
    }
    if let Ok(before) = before {
        fs::remove_dir_all(volume.join(before)).unwrap();
    }
}

#[test]
fn a_kubernetes_volume_is_followed() {
    is_replaced(kubernetes_volume, ["tls/tls.crt", "tls/tls.key"], |server, pair| {
        kubernetes_volume(server.folder(), pair);
    });
}

/// Nothing is reported of a link halfway along the path: the files are looked at all the same.
#[test]
fn a_folder_that_is_a_link_is_followed() {
    is_replaced(kubernetes_volume, ["tls/..data/tls.crt", "tls/..data/tls.key"], |server, pair| {
        kubernetes_volume(server.folder(), pair);
    });
}

#[test]
fn a_hangup_reloads_though_no_file_has_changed() {
    let authority = Authority::new();
    let pair = authority.issue();
    let server = server().with_tls(&pair).start();
    server.signal("HUP");
    until("it is logged", || server.log().contains("new connections get a certificate for localhost"));
    assert!(shows(&server, &authority, &pair));
}

#[test]
fn without_tls_a_hangup_is_ignored_and_logged() {
    let server = server().start();
    let mut socket = server.connect();
    server.signal("HUP");
    until("it is logged", || server.log().contains("SIGHUP is ignored"));
    socket.nothing_else();
}

#[test]
fn a_pair_that_cannot_be_loaded_leaves_the_one_before() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(), authority.issue());
    let server = server().with_tls(&old).start();
    let faults = || server.log().matches("the certificate stays as it was").count();

    // Half of a pair, as if whoever renews it had died.
    fs::write(server.folder().join("cert.pem"), &new.certificate).unwrap();
    until("it is logged", || faults() == 1);
    assert!(server.log().contains("--tls-key key.pem: the key in it is not that of"), "{}", server.log());
    assert!(shows(&server, &authority, &old));
    // A look that another file gives rise to says nothing more.
    fs::write(server.folder().join("other"), "").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(faults(), 1);
    // Who asks is answered.
    fs::remove_file(server.folder().join("key.pem")).unwrap();
    until("that is logged too", || faults() == 2);
    server.signal("HUP");
    until("the answer is logged", || faults() == 3);

    fs::write(server.folder().join("key.pem"), &new.key).unwrap();
    until("the new certificate is shown", || shows(&server, &authority, &new));
    assert_eq!(faults(), 3);
}

#[test]
fn an_expired_certificate_is_served_with_a_warning() {
    let authority = Authority::new();
    let builder = server().open().with_tls(&authority.issue_until(2020));
    let output = tablecast()
        .args(["check", "--tls-cert=cert.pem", "--tls-key=key.pem"])
        .current_dir(builder.folder())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("wrong: TLS with a certificate for localhost, expired 2020-01-01T00:00:00Z"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));

    let server = builder.start();
    until("it is logged", || {
        server.log().contains("clients will refuse a certificate for localhost, expired 2020-01-01")
    });
    let refused = request_error(Wire::tls(server.public, authority.client()));
    assert!(refused.contains("Expired") || refused.contains("expired"), "{refused}");
    until("it is counted", || failures(&server, "alert") == 1.0);
}

fn request_error(mut wire: Wire) -> String {
    wire.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap_err().to_string()
}

#[test]
fn check_tells_of_the_pair() {
    let authority = Authority::new();
    let builder = server().with_tls(&authority.issue());
    let check = |arguments: &[&str]| {
        let mut command = tablecast();
        command.args(["check", "--public-streams=*"]).args(arguments).current_dir(builder.folder());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(tablecast().arg("migrate").current_dir(builder.folder()).status().unwrap().success());

    let (code, said) = check(&["--tls-cert=cert.pem", "--tls-key=key.pem"]);
    assert!(
        said.contains("TLS with a certificate for localhost, good until 4096-01-01T00:00:00Z\n"),
        "{said}"
    );
    assert_eq!(code, Some(0), "{said}");
    // Also where the database isn't there to be looked at.
    let (code, said) = check(&["--tls-cert=cert.pem", "--tls-key=cert.pem", "--database-url=sqlite:gone.db"]);
    assert!(said.contains("wrong: --tls-key cert.pem: there is no private key in it"), "{said}");
    assert_eq!(code, Some(1));
}

#[test]
fn what_is_wrong_with_a_pair_is_said_at_the_start() {
    let authority = Authority::new();
    let (pair, other) = (authority.issue(), authority.issue());
    let encrypted = pair.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let old_encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                         DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let not_a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cut = &pair.certificate[..pair.certificate.len() / 2];

    for (certificate, key, expected) in [
        (None, Some(pair.key.as_str()), "--tls-cert cert.pem: No such file"),
        (Some(pair.certificate.as_str()), None, "--tls-key key.pem: No such file"),
        (Some(""), Some(&pair.key), "--tls-cert cert.pem: there is no certificate in it"),
        (Some(&pair.key), Some(&pair.key), "--tls-cert cert.pem: there is no certificate in it"),
        (Some(cut), Some(&pair.key), "--tls-cert cert.pem: it is not PEM"),
        (
            Some(not_a_certificate),
            Some(&pair.key),
            "--tls-cert cert.pem: the first certificate in it can't be read",
        ),
        (Some(&pair.certificate), Some(""), "--tls-key key.pem: there is no private key in it"),
        (
            Some(&pair.certificate),
            Some(&pair.certificate),
            "--tls-key key.pem: there is no private key in it",
        ),
        (Some(&pair.certificate), Some(&encrypted), "--tls-key key.pem: the key in it is encrypted"),
        (Some(&pair.certificate), Some(old_encrypted), "--tls-key key.pem: the key in it is encrypted"),
        (
            Some(&pair.certificate),
            Some(not_a_key),
            "--tls-key key.pem: the key in it is of a kind that can't be used",
        ),
        (
            Some(&pair.certificate),
            Some(&other.key),
            "--tls-key key.pem: the key in it is not that of the first certificate in cert.pem",
        ),
    ] {
        let builder = server().arg("--tls-cert=cert.pem").arg("--tls-key=key.pem");
        for (name, text) in [("cert.pem", certificate), ("key.pem", key)] {
            if let Some(text) = text {
                fs::write(builder.folder().join(name), text).unwrap();
            }
        }
        let error = builder.try_start().err().unwrap();
        assert!(error.contains(expected), "{error:?} instead of {expected:?}");
    }

    let error = server().arg("--tls-cert=.").arg("--tls-key=.").try_start().err().unwrap();
    assert!(error.contains("--tls-cert .: Is a directory"), "{error}");
    for (given, expected) in [
        ("--tls-cert=cert.pem", "--tls-cert is nothing without --tls-key"),
        ("--tls-key=key.pem", "--tls-key is nothing without --tls-cert"),
    ] {
        let error = server().arg(given).try_start().err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn half_a_handshake_ends_in_time_and_is_in_nobodys_way() {
    let authority = Authority::new();
    let server = server().open().with_tls(&authority.issue()).start();
    let started = Instant::now();
    let half_open: Vec<TcpStream> = (0..50)
        .map(|n| {
            let mut stream = TcpStream::connect(server.public).unwrap();
            // Half of them say nothing, half begin a record.
            if n % 2 == 0 {
                stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
            }
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            stream
        })
        .collect();

    server.connect_over_tls(&authority).subscribe(&pubsub("s"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for mut stream in half_open {
        assert!(stream.read(&mut [0; 64]).is_ok_and(|count| count == 0), "it is closed");
    }
    let took = started.elapsed();
    assert!((9..14).contains(&took.as_secs()), "{took:?}");
    until("they are counted", || failures(&server, "timeout") == 50.0);
}

#[test]
fn who_does_not_speak_tls_is_told_so_at_once() {
    let authority = Authority::new();
    let server = server().arg("--log-level=tablecast=debug").with_tls(&authority.issue()).start();

    let answer = get(server.public, "/health");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("This port speaks TLS"), "{answer:?}");
    until("it is counted", || failures(&server, "not_tls") == 1.0);
    until("it is logged", || server.log().contains("the client does not speak TLS"));

    // What only looks like it, and who leaves.
    let mut stream = TcpStream::connect(server.public).unwrap();
    stream.write_all(&[22, 3, 1, 0, 4, b'j', b'u', b'n', b'k']).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    until("it is counted", || failures(&server, "violation") == 1.0);
    drop(TcpStream::connect(server.public).unwrap());
    until("it is counted", || failures(&server, "gone") == 1.0);

    // Nothing in common; no trust.
    request_error(Wire::tls(server.public, authority.client_for(&["h2"])));
    until("it is counted", || failures(&server, "incompatible") == 1.0);
    request_error(Wire::tls(server.public, Authority::new().client()));
    until("it is counted", || failures(&server, "alert") == 1.0);
    server.connect_over_tls(&authority);
}

#[test]
fn a_handshake_takes_a_place_and_over_the_limit_there_is_none() {
    let authority = Authority::new();
    let server = server().open().arg("--max-connections=3").with_tls(&authority.issue()).start();
    let mut client = server.connect_over_tls(&authority);
    let half_open: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(server.public).unwrap()).collect();
    let refusals = || server.refused("max_connections");

    let mut refused = TcpStream::connect(server.public).unwrap();
    // Nothing that a client would take for broken TLS.
    match refused.read(&mut [0; 64]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    until("it is counted", || refusals() == 1.0);
    client.subscribe(&pubsub("s"));

    drop(half_open);
    until("their places are free", || failures(&server, "gone") == 2.0);
    server.connect_over_tls(&authority);
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_harms_nobody() {
    let authority = Authority::new();
    let server = server().open().arg("--send-buffer-bytes=64KiB").with_tls(&authority.issue()).start();
    let (slow, quick) = (server.connect_over_tls(&authority), server.connect_over_tls(&authority));
    a_slow_client_is_disconnected_and_harms_nobody(&server, slow, quick);
}

#[test]
fn a_draining_server_says_goodbye_and_closes_tls_in_order() {
    let authority = Authority::new();
    let mut server = server().with_tls(&authority.issue()).start();
    let mut clients: Vec<Socket> = (0..10).map(|_| server.connect_over_tls(&authority)).collect();
    // Nobody waits for a handshake that has only begun.
    let _half_open = TcpStream::connect(server.public).unwrap();

    let started = Instant::now();
    server.signal("TERM");

    for client in &mut clients {
        assert_eq!(client.text(), r#"{"type":"disconnect","reason":"server_restart","reconnect":true}"#);
        assert_eq!(client.next(), Frame::Close(1000, String::new()));
        client.close();
        // Without a close_notify it would be an error.
        assert_eq!(client.wire().read(&mut [0]).unwrap(), 0);
    }
    drop(clients);
    assert_eq!(server.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
