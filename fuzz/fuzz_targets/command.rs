//! Whatever a client asks for, under rules of every kind, and whatever an operator writes as a
//! rule: no panic, and what is opened is a name that may be opened.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tablecast::channels::{Asked, Channels, Condition, Doors, Pattern, Rule, SignedNames, Template};
use tablecast::identity::Identity;
use tablecast::stream::{MAX_CHANNEL_BYTES, Prefix};
use tablecast_protocol::signed::{Digest, StreamKeys, Verifier};
use tablecast_protocol::{Command, Identifier};

/// One of each kind; the fuzzer learns their names from the comparisons.
const RULES: &str = r#"[
    {"name": "P", "stream": "p:{a}:{b}", "allow": "public"},
    {"name": "G", "stream": "{gid(Post, a)}:{b}", "allow": ["public", "{b} in ['x', 7]"]},
    {"name": "I", "stream": "i:{user.id}:{a}", "allow": ["identified", "{a} != {user.org.id}"]},
    {"name": "S", "stream": "{a}", "allow": "signed"},
    {"name": "T", "allow": ["signed", "{a} in {user.list}"], "state": true}
]"#;

struct World {
    channels: Channels,
    who: Identity,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let keys = StreamKeys::new(vec![Verifier::new(b"key", Digest::Sha256)]);
    let doors = Doors {
        rules: serde_json::from_str::<Vec<Rule>>(RULES).unwrap(),
        public_streams: vec![Pattern::new("o*p*n")],
        signed_names: SignedNames { turbo: keys.clone(), anycable: keys },
        global_id_app: Some("my-app".parse().unwrap()),
    };
    let claims = json!({"id": 7, "org": {"id": "x"}, "list": ["x", 7, null]});
    World {
        channels: Channels::new(doors, Prefix::default()).unwrap(),
        who: Identity { claims: claims.as_object().unwrap().clone(), name: None, expires: None, session: None },
    }
});

// A line that is a command, or the identifier of one, which has its quotes escaped there; then a
// condition or a template.
fuzz_target!(|text: &str| {
    let (asks, rule) = text.split_once('\n').unwrap_or((text, ""));
    let identifier = match Command::parse(asks) {
        Ok(Command::Subscribe { identifier, history }) => {
            // Whatever a client claims to have is a text, or nothing.
            assert!(history.is_none_or(|history| history.epochs.len() <= asks.len()));
            identifier
        }
        Ok(_) => return,
        Err(_) => asks.into(),
    };
    let Ok(identifier) = Identifier::parse(&identifier) else { return };
    let World { channels, who } = &*WORLD;
    for who in [None, Some(who)] {
        if let Ok(target) = channels.resolve(&identifier, who) {
            let name = target.stream.to_string();
            assert!((1..=MAX_CHANNEL_BYTES).contains(&name.len()) && !name.contains('\0'));
            assert!(!name.starts_with("action_cable/"));
        }
        let asked = Asked { identifier: &identifier, who };
        if let Ok(condition) = rule.parse::<Condition>() {
            let holds = condition.holds(&asked);
            assert!(!holds || who.is_some() || !condition.has_claims());
        }
        if let Ok(template) = rule.parse::<Template>() {
            let filled = template.fill(&asked, Some(&"my-app".parse().unwrap()));
            assert!(filled.is_err() || who.is_some() || !template.has_claims());
        }
    }
});
