//! Who may listen to which stream: signed names, rules, and what `check` says of them.

use serde_json::json;

use crate::support::{Socket, server, tablecast};

/// AnyCable's and Turbo's own vectors, under the secret "s3Krit".
const CHAT_2021: &str = "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628";
const NO_TEXT: &str =
    "WyJjaGF0LzIwMjMiLDE2ODUwMjQwMTdd--5b6661024d4c463c4936cd1542bc9a7672dd8039ac407d0b6c901697190e8aeb";

fn signed(channel: &str, name: &str) -> String {
    json!({ "channel": channel, "signed_stream_name": name }).to_string()
}

#[test]
fn a_signed_name_opens_its_stream_to_anybody() {
    let server = server().arg("--secret=s3Krit").start();
    let mut socket = server.connect();
    for channel in ["$pubsub", "Turbo::StreamsChannel"] {
        let identifier = signed(channel, CHAT_2021);
        socket.subscribe(&identifier);

        server.insert("chat:2021", r#"{"from":"a worker"}"#);

        assert_eq!(socket.message(&identifier), r#"{"from":"a worker"}"#);
        socket.command("unsubscribe", &identifier);
    }
    assert_eq!(
        server.said[2],
        "open to everybody: no stream; with a signed name: Turbo::StreamsChannel, $pubsub"
    );
}

#[test]
fn what_is_not_signed_is_rejected_and_the_client_does_not_learn_why() {
    let server = server().open().arg("--secret=s3Krit").start();
    let mut socket = server.connect();
    let another_digest = CHAT_2021.replace("--f9", "--f8");
    let upper_case = CHAT_2021.to_uppercase();
    for name in [&another_digest, &upper_case, NO_TEXT, "chat:2021", ""] {
        for channel in ["$pubsub", "Turbo::StreamsChannel"] {
            socket.rejected(&signed(channel, name));
        }
    }
    // It isn't asked for the other name, which is open.
    let both = json!({ "channel": "$pubsub", "stream_name": "open", "signed_stream_name": another_digest });
    socket.rejected(&both.to_string());
    assert_eq!(server.refused("signature"), 11.0);
    assert!(!server.log().contains(&CHAT_2021[..20]));

    let without_a_key = server.beside().start();
    let mut socket = without_a_key.connect();
    socket.rejected(&signed("$pubsub", CHAT_2021));
    assert_eq!(without_a_key.refused("channel_not_open"), 1.0);
}

#[test]
fn a_signed_name_is_good_under_the_servers_own_prefix_alone() {
    let server = server().with_prefix("staging").arg("--secret=s3Krit").start();
    let mut socket = server.connect();
    let identifier = signed("$pubsub", CHAT_2021);
    socket.subscribe(&identifier);
    let publish = |prefix: &str, data: &str| {
        server.sql(&format!(
            "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('chat:2021', '{data}', '{prefix}')"
        ))
    };

    publish("production", "1");
    publish("staging", "2");

    assert_eq!(socket.message(&identifier), "2");
}

#[test]
fn a_connection_that_is_anonymous_gets_nothing_that_asks_who_it_is() {
    let server = server()
        .arg("--secret=s3Krit")
        .config(
            r#"
            [[channel]]
            name = "Identified"
            stream = "a"
            allow = "identified"

            [[channel]]
            name = "Own"
            stream = "own:{owner}"
            allow = "{owner} == {user.id}"

            [[channel]]
            name = "Turbo::StreamsChannel"
            allow = ["signed", "identified"]

            [[channel]]
            name = "Signed"
            stream = "chat:{year}"
            allow = ["signed"]

            [[channel]]
            name = "Rooms"
            stream = "rooms:{room}"
            allow = ["public", "{room} in ['lobby', 7]"]
            "#,
        )
        .start();
    let mut socket = server.connect();

    socket.rejected(r#"{"channel":"Identified"}"#);
    socket.rejected(r#"{"channel":"Own","owner":""}"#);
    socket.rejected(r#"{"channel":"Own"}"#);
    socket.rejected(&signed("Turbo::StreamsChannel", CHAT_2021));
    assert_eq!(server.refused("not_identified"), 4.0);

    let chat =
        |year: u16| json!({ "channel": "Signed", "year": year, "signed_stream_name": CHAT_2021 }).to_string();
    socket.subscribe(&chat(2021));
    socket.rejected(&chat(2022));
    assert_eq!(server.refused("another_name"), 1.0);

    socket.subscribe(r#"{"channel":"Rooms","room":"lobby"}"#);
    socket.subscribe(r#"{"channel":"Rooms","room":"7"}"#);
    socket.rejected(r#"{"channel":"Rooms","room":"cellar"}"#);
    assert_eq!(server.refused("condition"), 1.0);
    assert_eq!(
        server.said[2],
        "open to everybody: Rooms -> rooms:{room} if {room} in ['lobby', 7]; \
         with a signed name: Signed -> chat:{year}; \
         to who is identified: Identified -> a, Own -> own:{owner} if {owner} == {user.id}, \
         Turbo::StreamsChannel, with a signed name"
    );
}

#[test]
fn a_rule_makes_the_name_that_stream_for_makes() {
    let server = server()
        .arg("--global-id-app=my-app")
        .arg("--public-channel=CommentsChannel=comments:{gid(Post, post_id)}")
        .start();
    let mut socket: Socket = server.connect();
    let identifier = r#"{"channel":"CommentsChannel","post_id":1}"#;
    socket.subscribe(identifier);

    // As `CommentsChannel.broadcast_to(Post.find(1), …)` names it.
    server.insert("comments:Z2lkOi8vbXktYXBwL1Bvc3QvMQ", "1");

    assert_eq!(socket.message(identifier), "1");
    socket.rejected(r#"{"channel":"CommentsChannel","post_id":"01"}"#);
}

/// What `check` says on a fresh file, and whether it is content.
fn check(arguments: &[&str], config: &str) -> (bool, String) {
    let builder = server().config(config);
    let output = tablecast().arg("check").args(arguments).current_dir(builder.folder()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn check_names_each_unsafe_combination() {
    let unsafe_with = |arguments: &[&str], config: &str, part: &str| {
        let (is_content, said) = check(arguments, config);
        assert!(!is_content && said.contains(&format!("wrong: {part}")), "{part} is not in\n{said}");
    };
    let identified = "[[channel]]\nname = \"Mine\"\nstream = \"mine:{user.id}\"\nallow = \"identified\"\n";
    let signed = "[[channel]]\nname = \"Signed\"\nallow = \"signed\"\n";
    unsafe_with(&["--public-streams=*", "--listen=0.0.0.0:8080"], "", "--public-streams * on an address");
    unsafe_with(&["--secret=s3Krit"], "", "--secret is 6 bytes long");
    unsafe_with(&["--publish-key=s3Krit"], "", "--publish-key is 6 bytes long");
    unsafe_with(&[], identified, "nothing says who is connected");
    unsafe_with(&[], "[[publish_key]]\nkey = \"s3Krit\"\n", "[[publish_key]] is 6 bytes long");
    unsafe_with(
        &["--public-channel=Any=mine:{id}"],
        identified,
        "Any -> mine:{id} can lead to a stream of Mine -> mine:{user.id}",
    );
    unsafe_with(&["--public-streams=m*"], identified, "--public-streams m* can lead to a stream of Mine");
    unsafe_with(&["--jwks=keys.json"], "", "--jwks without --jwt-audience");
    unsafe_with(&[], signed, "there is no key for the signed names of these rules");

    let (_, said) = check(&["--secret=s3Krit", "--publish-key=t0pSekrit"], "");
    assert!(!said.contains("s3Krit") && !said.contains("t0pSekrit"), "{said}");
}

#[test]
fn check_is_content_with_what_is_safe() {
    let secret = "--secret=0123456789abcdef0123456789abcdef";
    for (arguments, config, open) in [
        (vec!["--public-streams=*"], "", "open to everybody: streams *"),
        (vec!["--public-streams=*", "--listen=0.0.0.0:8080", secret], "", "open to everybody: streams *"),
        (vec![secret], "", "open with a signed name: Turbo::StreamsChannel, $pubsub"),
    ] {
        // On SQLite there is no table before it is served.
        let builder = server().config(config);
        let migrated = tablecast().arg("migrate").current_dir(builder.folder()).output().unwrap();
        assert!(migrated.status.success());
        let output =
            tablecast().arg("check").args(&arguments).current_dir(builder.folder()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(open), "{said}");
    }
}
