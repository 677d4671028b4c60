//! Which stream an identifier means, and whether its sender may listen.
//!
//! A [`Rule`] answers for one channel. For the others signed stream names do, where there are
//! keys for them (`Turbo::StreamsChannel`, `$pubsub`), and the patterns of `--public-streams`
//! for identifiers that name their stream themselves. What none of these opens is closed.

mod condition;
mod gid;
mod meeting;
mod pattern;
mod reference;
mod refusal;
mod rule;
mod signed;
mod template;

use std::collections::HashMap;
use std::time::SystemTime;

use tablecast_protocol::Identifier;

pub use condition::{Condition, ConditionError};
pub use gid::GlobalIdApp;
pub use pattern::Pattern;
pub use reference::{Asked, Reference};
pub use refusal::Refusal;
pub use rule::{Naming, Rule, RuleError};
pub use signed::SignedNames;
pub use template::{Template, TemplateError};

use crate::identity::Identity;
use crate::stream::{Prefix, Stream};

/// All that opens streams to clients.
#[derive(Debug, Default)]
pub struct Doors {
    pub rules: Vec<Rule>,
    pub public_streams: Vec<Pattern>,
    pub signed_names: SignedNames,
    /// For `gid(…)` in rules.
    pub global_id_app: Option<GlobalIdApp>,
}

/// What an identifier leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub stream: Stream,
    /// Only the latest message counts.
    pub is_state: bool,
    /// So many of the last messages a newcomer is given, if each counts.
    pub replay: usize,
}

/// The doors of a server, looked up by their channel.
#[derive(Debug)]
pub struct Channels {
    rules: HashMap<String, Rule>,
    public_streams: Vec<Pattern>,
    signed_names: SignedNames,
    /// No rule asks for more beside one. Where one does, the same name shown to a channel without a rule
    /// would get around it.
    signed_name_is_enough: bool,
    global_id_app: Option<GlobalIdApp>,
    prefix: Prefix,
}

/// What is open, for people: channels with their streams, by whom they let in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub everybody: Vec<String>,
    /// Whoever shows a name that the application has signed.
    pub signed: Vec<String>,
    /// Whoever is identified, and for whom the conditions hold.
    pub identified: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelsError {
    #[error("two rules name the channel {0}")]
    Twice(String),
    #[error("rule {0}: gid() needs --global-id-app, the application's name in its GlobalIDs")]
    GlobalIdApp(String),
}

impl Channels {
    pub fn new(doors: Doors, prefix: Prefix) -> Result<Self, ChannelsError> {
        let Doors { rules, public_streams, signed_names, global_id_app } = doors;
        let mut by_name = HashMap::new();
        let asks_for_more =
            |rule: &Rule| rule.needs_signature() && (rule.needs_identity() || !rule.conditions.is_empty());
        let signed_name_is_enough = !rules.iter().any(asks_for_more);
        for rule in rules {
            if global_id_app.is_none() && rule.template().is_some_and(Template::has_global_ids) {
                return Err(ChannelsError::GlobalIdApp(rule.name));
            }
            if let Some(twice) = by_name.insert(rule.name.clone(), rule) {
                return Err(ChannelsError::Twice(twice.name));
            }
        }
        Ok(Self {
            rules: by_name,
            public_streams,
            signed_names,
            signed_name_is_enough,
            global_id_app,
            prefix,
        })
    }

    /// Where an identifier leads one whose connection belongs to `who`; none is anybody.
    pub fn resolve(&self, identifier: &Identifier<'_>, who: Option<&Identity>) -> Result<Target, Refusal> {
        let channel = identifier.channel().ok_or(Refusal::NoChannel)?;
        let (name, is_state, replay) = match self.rules.get(&channel) {
            Some(rule) => (self.by_rule(rule, &Asked { identifier, who })?, rule.state, rule.replay),
            None => (self.by_itself(channel, identifier)?, false, 0),
        };
        Ok(Target { stream: self.prefix.stream(&name)?, is_state, replay })
    }

    fn by_rule(&self, rule: &Rule, asked: &Asked<'_>) -> Result<String, Refusal> {
        if rule.needs_identity() && asked.who.is_none() {
            return Err(Refusal::NotIdentified);
        }
        if let Some(condition) = rule.conditions.iter().find(|condition| !condition.holds(asked)) {
            return Err(Refusal::Condition(condition.clone()));
        }
        let fill = |template: &Template| template.fill(asked, self.global_id_app.as_ref());
        match &rule.stream {
            Naming::Template(template) => Ok(fill(template)?),
            Naming::Signed => self.verified(&rule.name, asked.identifier),
            Naming::SignedTemplate(template) => {
                let signed = self.verified(&rule.name, asked.identifier)?;
                if signed == fill(template)? { Ok(signed) } else { Err(Refusal::AnotherName) }
            }
        }
    }

    /// The stream of a channel that has no rule.
    fn by_itself(&self, channel: String, identifier: &Identifier<'_>) -> Result<String, Refusal> {
        // Who shows a signed name wants that one, as with AnyCable, and gets no other instead.
        if [signed::TURBO, signed::PUBSUB].contains(&&*channel) && identifier.has(signed::PARAMETER) {
            return if self.is_open_to_signed(&channel) {
                self.verified(&channel, identifier)
            } else {
                Err(Refusal::NotOpen(channel))
            };
        }
        match identifier.text("stream_name").or_else(|| identifier.text("stream")) {
            Some(name) if self.public_streams.iter().any(|pattern| pattern.matches(&name)) => Ok(name),
            _ => Err(Refusal::NotOpen(channel)),
        }
    }

    /// Whether a signed name opens this channel where it has no rule.
    fn is_open_to_signed(&self, channel: &str) -> bool {
        self.signed_name_is_enough && self.signed_names.has_keys(channel)
    }

    fn verified(&self, channel: &str, identifier: &Identifier<'_>) -> Result<String, Refusal> {
        let signed = identifier.text(signed::PARAMETER).ok_or(Refusal::Unsigned)?;
        Ok(self.signed_names.verify(channel, &signed, SystemTime::now())?)
    }

    /// Whether any rule is for state streams.
    pub fn have_states(&self) -> bool {
        self.rules.values().any(|rule| rule.state)
    }

    /// Whether everybody may listen to any stream that they name.
    pub fn open_everything(&self) -> bool {
        self.public_streams.iter().any(Pattern::is_everything)
    }

    /// The rules that let in only who is identified.
    pub fn for_identified(&self) -> Vec<String> {
        self.names(Rule::needs_identity)
    }

    /// The rules that need a signed name, and for whose names there is no key.
    pub fn without_keys(&self) -> Vec<String> {
        self.names(|rule| rule.needs_signature() && !self.signed_names.has_keys(&rule.name))
    }

    /// Each rule that another door gets around, with that door first.
    pub fn undermined(&self) -> Vec<[String; 2]> {
        let mut rules: Vec<_> = self.rules.values().collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = Vec::new();
        for rule in &rules {
            let others = rules.iter().filter(|other| other.undermines(rule));
            found.extend(others.map(|other| [other.to_string(), rule.to_string()]));
            let is_closed = rule.needs_identity() || rule.needs_signature();
            let Some(template) = rule.template().filter(|_| is_closed) else { continue };
            let patterns = self.public_streams.iter().filter(|pattern| template.can_match(pattern));
            found.extend(patterns.map(|pattern| [format!("--public-streams {pattern}"), rule.to_string()]));
        }
        found
    }

    pub fn describe(&self) -> Open {
        let mut open = Open::default();
        let mut rules: Vec<_> = self.rules.values().collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        for rule in rules {
            match (rule.needs_identity(), rule.needs_signature()) {
                (true, true) => open.identified.push(format!("{rule}, with a signed name")),
                (true, false) => open.identified.push(rule.to_string()),
                (false, true) => open.signed.push(rule.to_string()),
                (false, false) => open.everybody.push(rule.to_string()),
            }
        }
        for channel in [signed::TURBO, signed::PUBSUB] {
            if !self.rules.contains_key(channel) && self.is_open_to_signed(channel) {
                open.signed.push(channel.into());
            }
        }
        open.everybody.extend(self.public_streams.iter().map(|pattern| format!("streams {pattern}")));
        open
    }

    fn names(&self, are: impl Fn(&Rule) -> bool) -> Vec<String> {
        let mut names: Vec<_> =
            self.rules.values().filter(|rule| are(rule)).map(|rule| rule.name.clone()).collect();
        names.sort();
        names
    }
}

impl Open {
    /// Nobody can subscribe to anything.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tablecast_protocol::signed::{Digest, SignedError, StreamKeys, Verifier};

    use super::*;
    use crate::stream::StreamError;

    fn keys(key: &[u8]) -> StreamKeys {
        StreamKeys::new(vec![Verifier::new(key, Digest::Sha256)])
    }

    fn signed_names() -> SignedNames {
        SignedNames { turbo: keys(b"turbo"), anycable: keys(b"anycable") }
    }

    /// A name as Turbo's helper signs it.
    fn turbo(name: &str) -> String {
        keys(b"turbo").sign(name, None).unwrap()
    }

    /// A name as AnyCable's helper signs it.
    fn anycable(name: &str) -> String {
        keys(b"anycable").sign(name, None).unwrap()
    }

    const WRONG_KEY: Refusal = Refusal::Signature(SignedError::WrongKey);

    fn rules(toml: &str) -> Vec<Rule> {
        #[derive(serde::Deserialize)]
        struct File {
            channel: Vec<Rule>,
        }
        toml::from_str::<File>(toml).unwrap().channel
    }

    fn rule(name: &str, stream: &str, allow: &str) -> Rule {
        let stream = if stream.is_empty() { String::new() } else { format!("stream = \"{stream}\"\n") };
        rules(&format!("[[channel]]\nname = \"{name}\"\n{stream}allow = {allow}")).remove(0)
    }

    fn doors(doors: Doors) -> Channels {
        Channels::new(doors, Prefix::default()).unwrap()
    }

    fn channels(rules: &[(&str, &str)], public: &[&str]) -> Channels {
        let rules = rules.iter().map(|(name, stream)| rule(name, stream, "'public'")).collect();
        let public_streams = public.iter().map(|text| Pattern::new(text)).collect();
        doors(Doors { rules, public_streams, ..Doors::default() })
    }

    fn resolve(channels: &Channels, identifier: &str) -> Result<String, Refusal> {
        resolve_as(channels, identifier, None)
    }

    fn resolve_as(channels: &Channels, identifier: &str, claims: Option<Value>) -> Result<String, Refusal> {
        let who = claims.map(|claims| Identity {
            claims: claims.as_object().unwrap().clone(),
            name: None,
            expires: None,
            session: None,
        });
        channels
            .resolve(&Identifier::parse(identifier).unwrap(), who.as_ref())
            .map(|target| target.stream.to_string())
    }

    #[test]
    fn a_rule_that_asks_for_more_than_a_signed_name_is_not_got_around() {
        let toml = "[[channel]]\nname = 'Chat'\nallow = ['signed', 'identified']";
        let doors = Doors { rules: rules(toml), signed_names: signed_names(), ..Doors::default() };
        let channels = Channels::new(doors, Prefix::default()).unwrap();

        for (channel, name) in [("$pubsub", anycable("room:1")), ("Turbo::StreamsChannel", turbo("room:1"))] {
            let identifier = json!({ "channel": channel, "signed_stream_name": name }).to_string();
            let refusal = channels.resolve(&Identifier::parse(&identifier).unwrap(), None);
            assert_eq!(refusal, Err(Refusal::NotOpen(channel.into())));
        }
    }

    #[test]
    fn a_rule_fills_its_template() {
        let channels = channels(&[("ProgressChannel", "progress:{job_id}")], &[]);
        let stream =
            |id: &str| resolve(&channels, &format!(r#"{{"channel":"ProgressChannel","job_id":{id}}}"#));

        assert_eq!(stream("42").unwrap(), "progress:42");
        assert_eq!(stream("\"42\"").unwrap(), "progress:42");
        assert_eq!(stream("12345678901234567890123").unwrap(), "progress:12345678901234567890123");
        assert_eq!(stream("\"a:b%3A\"").unwrap(), "progress:a%3Ab%253A");
        for bad in ["null", "{}", "[1]", "\"\""] {
            assert_eq!(stream(bad), Err(Refusal::Parameter("job_id".into())), "{bad}");
        }
        assert_eq!(
            resolve(&channels, r#"{"channel":"ProgressChannel"}"#),
            Err(Refusal::Parameter("job_id".into()))
        );
        assert_eq!(stream("\"a\\u0000b\""), Err(Refusal::Name(StreamError::Nul)));
    }

    #[test]
    fn a_pattern_opens_streams_that_are_named() {
        let channels = channels(&[], &["progress:*"]);
        let by = |key: &str, name: &str| {
            resolve(&channels, &format!(r#"{{"channel":"$pubsub","{key}":"{name}"}}"#))
        };

        assert_eq!(by("stream_name", "progress:1:2").unwrap(), "progress:1:2");
        assert_eq!(by("stream", "progress:1").unwrap(), "progress:1");
        assert_eq!(by("stream_name", "secret:1"), Err(Refusal::NotOpen("$pubsub".into())));
        assert_eq!(by("signed_stream_name", "progress:1"), Err(Refusal::NotOpen("$pubsub".into())));
        assert_eq!(resolve(&channels, r#"{"stream":"progress:1"}"#), Err(Refusal::NoChannel));
    }

    #[test]
    fn nothing_opens_rails_own_streams() {
        let channels = channels(&[("C", "{name}"), ("D", "action_cable/{id}")], &["*"]);
        let reserved = Err(Refusal::Name(StreamError::Reserved));

        assert_eq!(resolve(&channels, r#"{"channel":"C","name":"action_cable/1"}"#), reserved);
        assert_eq!(resolve(&channels, r#"{"channel":"D","id":1}"#), reserved);
        assert_eq!(resolve(&channels, r#"{"channel":"$pubsub","stream_name":"action_cable/1"}"#), reserved);
    }

    #[test]
    fn a_rule_alone_answers_for_its_channel() {
        let channels = channels(&[("ProgressChannel", "progress:{job_id}")], &["*"]);

        let refusal = resolve(&channels, r#"{"channel":"ProgressChannel","stream":"anything"}"#);

        assert_eq!(refusal, Err(Refusal::Parameter("job_id".into())));
    }

    #[test]
    fn a_rule_for_the_identified_refuses_anybody() {
        let channels = doors(Doors {
            rules: vec![
                rule("AnyUser", "a:{id}", "'identified'"),
                rule("Own", "own:{user.id}:{id}", "'identified'"),
                rule("Role", "role:{id}", "\"{user.role} != 'guest'\""),
            ],
            ..Doors::default()
        });
        let ask = |channel: &str, claims| {
            resolve_as(&channels, &format!(r#"{{"channel":"{channel}","id":1}}"#), claims)
        };

        for channel in ["AnyUser", "Own", "Role"] {
            assert_eq!(ask(channel, None), Err(Refusal::NotIdentified), "{channel}");
        }
        assert_eq!(ask("AnyUser", Some(json!({}))).unwrap(), "a:1");
        assert_eq!(ask("Own", Some(json!({"id": 7}))).unwrap(), "own:7:1");
        assert_eq!(ask("Own", Some(json!({"name": 7}))), Err(Refusal::Claim("id".into())));
        assert_eq!(ask("Role", Some(json!({"role": "admin"}))).unwrap(), "role:1");
        let refused = ask("Role", Some(json!({"role": "guest"}))).unwrap_err();
        assert_eq!(refused.to_string(), "it does not hold that {user.role} != 'guest'");
    }

    #[test]
    fn all_of_a_list_must_hold() {
        let allow = r#"["signed", "identified", "{owner} == {user.id}", "{room} in {user.rooms}"]"#;
        let channels = doors(Doors {
            rules: vec![rule("C", "", allow)],
            signed_names: signed_names(),
            ..Doors::default()
        });
        let ask = |owner: u8, room: &str, signed: &str, claims: Option<Value>| {
            let identifier =
                json!({"channel": "C", "owner": owner, "room": room, "signed_stream_name": signed});
            resolve_as(&channels, &identifier.to_string(), claims).map_err(|refusal| refusal.name())
        };
        let ann = || Some(json!({"id": 7, "rooms": ["a"]}));

        assert_eq!(ask(7, "a", &turbo("room:a"), ann()).unwrap(), "room:a");
        assert_eq!(ask(7, "a", &turbo("room:a"), None), Err("not_identified"));
        assert_eq!(ask(8, "a", &turbo("room:a"), ann()), Err("condition"));
        assert_eq!(ask(7, "b", &turbo("room:a"), ann()), Err("condition"));
        assert_eq!(ask(7, "a", &anycable("room:b")[1..], ann()), Err("signature"));
    }

    #[test]
    fn turbo_and_pubsub_need_no_rule_where_there_are_keys() {
        let channels = doors(Doors { signed_names: signed_names(), ..Doors::default() });
        let ask = |channel: &str, signed: &str| {
            let identifier = json!({"channel": channel, "signed_stream_name": signed});
            resolve(&channels, &identifier.to_string())
        };

        assert_eq!(ask("Turbo::StreamsChannel", &turbo("room:1")).unwrap(), "room:1");
        assert_eq!(ask("$pubsub", &anycable("room:1")).unwrap(), "room:1");
        assert_eq!(ask("Turbo::StreamsChannel", &anycable("room:1")), Err(WRONG_KEY));
        assert_eq!(ask("$pubsub", &turbo("room:1")), Err(WRONG_KEY));
        for unsigned in ["room:1", ""] {
            assert_eq!(ask("$pubsub", unsigned), Err(Refusal::Signature(SignedError::Unsigned)));
        }
        assert_eq!(ask("Other", &turbo("room:1")), Err(Refusal::NotOpen("Other".into())));
        assert_eq!(
            resolve(&channels, r#"{"channel":"Turbo::StreamsChannel"}"#),
            Err(Refusal::NotOpen("Turbo::StreamsChannel".into()))
        );
        for no_text in ["null", "7", "[]"] {
            let identifier = format!(r#"{{"channel":"$pubsub","signed_stream_name":{no_text}}}"#);
            assert_eq!(resolve(&channels, &identifier), Err(Refusal::Unsigned), "{no_text}");
        }
    }

    #[test]
    fn an_expired_name_is_refused_and_counted_as_one() {
        let channels = doors(Doors { signed_names: signed_names(), ..Doors::default() });
        let ask = |expires| {
            let signed = keys(b"turbo").sign("room:1", Some(expires)).unwrap();
            let identifier = json!({"channel": "Turbo::StreamsChannel", "signed_stream_name": signed});
            resolve(&channels, &identifier.to_string()).map_err(|refusal| refusal.name())
        };

        let minute = Duration::from_secs(60);
        assert_eq!(ask(SystemTime::now() + minute).unwrap(), "room:1");
        assert_eq!(ask(SystemTime::now() - minute), Err("signature_expired"));
    }

    #[test]
    fn without_a_key_there_are_no_signed_names() {
        let signed_names = SignedNames { turbo: keys(b"turbo"), ..SignedNames::default() };
        let public_streams = vec![Pattern::new("*")];
        let channels = doors(Doors { signed_names, public_streams, ..Doors::default() });
        let ask = |channel: &str| {
            let identifier =
                json!({"channel": channel, "signed_stream_name": turbo("a"), "stream_name": "open"});
            resolve(&channels, &identifier.to_string())
        };

        assert_eq!(ask("$pubsub"), Err(Refusal::NotOpen("$pubsub".into())));
        assert_eq!(ask("Turbo::StreamsChannel").unwrap(), "a");
    }

    #[test]
    fn beside_a_signed_name_no_other_counts() {
        let channels = doors(Doors {
            public_streams: vec![Pattern::new("*")],
            signed_names: signed_names(),
            ..Doors::default()
        });
        let ask = |signed: &str| {
            let identifier =
                json!({"channel": "$pubsub", "stream_name": "open", "signed_stream_name": signed});
            resolve(&channels, &identifier.to_string())
        };

        assert_eq!(ask(&anycable("room:1")).unwrap(), "room:1");
        assert_eq!(ask(&turbo("room:1")), Err(WRONG_KEY));
    }

    #[test]
    fn a_signed_name_is_under_the_prefix_and_never_rails_own() {
        for (prefix, name, expected) in [
            ("", "action_cable/1", Err(Refusal::Name(StreamError::Reserved))),
            ("", "staging:action_cable/1", Err(Refusal::Name(StreamError::Reserved))),
            ("staging", "action_cable/1", Err(Refusal::Name(StreamError::Reserved))),
            ("staging", "production:room:1", Ok("staging:production:room:1".to_owned())),
            ("", "", Err(Refusal::Name(StreamError::Empty))),
        ] {
            let prefix = Prefix::new(prefix).unwrap();
            let signed_names = Doors { signed_names: signed_names(), ..Doors::default() };
            let channels = Channels::new(signed_names, prefix.clone()).unwrap();
            let identifier = json!({"channel": "$pubsub", "signed_stream_name": anycable(name)});
            let identifier = identifier.to_string();

            let target = channels.resolve(&Identifier::parse(&identifier).unwrap(), None);

            assert_eq!(target.map(|target| prefix.channel(&target.stream)), expected);
        }
    }

    #[test]
    fn a_rule_of_ones_own_overrides_the_built_in_channel() {
        let rules = rules(
            "[[channel]]\nname = 'Turbo::StreamsChannel'\nallow = ['signed', 'identified']\nstate = true\n",
        );
        let channels = doors(Doors { rules, signed_names: signed_names(), ..Doors::default() });
        let ask = |signed: &str, claims| {
            let identifier = json!({"channel": "Turbo::StreamsChannel", "signed_stream_name": signed});
            resolve_as(&channels, &identifier.to_string(), claims)
        };

        assert_eq!(ask(&turbo("room:1"), None), Err(Refusal::NotIdentified));
        assert_eq!(ask(&turbo("room:1"), Some(json!({}))).unwrap(), "room:1");
        assert_eq!(ask(&anycable("room:1"), Some(json!({}))), Err(WRONG_KEY));
    }

    #[test]
    fn a_template_beside_a_signature_must_make_the_signed_name() {
        let channels = doors(Doors {
            rules: vec![rule("C", "room:{room}", "'signed'")],
            signed_names: signed_names(),
            ..Doors::default()
        });
        let ask = |room: &str, signed: &str| {
            let identifier = json!({"channel": "C", "room": room, "signed_stream_name": signed});
            resolve(&channels, &identifier.to_string())
        };

        assert_eq!(ask("1", &turbo("room:1")).unwrap(), "room:1");
        assert_eq!(ask("1", &anycable("room:1")).unwrap(), "room:1");
        assert_eq!(ask("2", &turbo("room:1")), Err(Refusal::AnotherName));
        assert_eq!(ask("1:2", &turbo("room:1:2")), Err(Refusal::AnotherName));
        assert_eq!(resolve(&channels, r#"{"channel":"C","room":"1"}"#), Err(Refusal::Unsigned));
    }

    #[test]
    fn a_rule_makes_what_stream_for_makes() {
        let comments = || rule("CommentsChannel", "comments:{gid(Post, post_id)}", "'public'");
        let ask = |app: Option<GlobalIdApp>| {
            let channels = Channels::new(
                Doors { rules: vec![comments()], global_id_app: app, ..Doors::default() },
                Prefix::default(),
            )?;
            Ok(resolve(&channels, r#"{"channel":"CommentsChannel","post_id":1}"#).unwrap())
        };

        assert_eq!(ask(Some("TestApp".parse().unwrap())).unwrap(), "comments:Z2lkOi8vVGVzdEFwcC9Qb3N0LzE");
        assert_eq!(ask(None), Err(ChannelsError::GlobalIdApp("CommentsChannel".into())));
    }

    #[test]
    fn rules_that_another_door_gets_around_are_told_with_it() {
        let channels = doors(Doors {
            rules: vec![
                rule("Room", "room_{room}", "'public'"),
                rule("Own", "room_own_{user.id}", "'identified'"),
                rule("Job", "jobs:{user.id}:{job}", "'identified'"),
                rule("Chat", "", "'signed'"),
            ],
            public_streams: vec![Pattern::new("jobs:*"), Pattern::new("job")],
            signed_names: signed_names(),
            ..Doors::default()
        });

        let pair = |door: &str, rule: &str| [door.to_owned(), rule.to_owned()];
        assert_eq!(
            channels.undermined(),
            [
                pair("--public-streams jobs:*", "Job -> jobs:{user.id}:{job}"),
                pair("Room -> room_{room}", "Own -> room_own_{user.id}"),
            ]
        );
    }

    #[test]
    fn what_is_open_is_told_by_whom_it_lets_in() {
        let channels = doors(Doors {
            rules: vec![
                rule("B", "b", "'public'"),
                rule("A", "a:{id}", r#"["public", "{id} in [1, 2]"]"#),
                rule("Mine", "mine:{user.id}", "'identified'"),
                rule("Both", "", "['signed', 'identified']"),
                rule("Room", "room:{id}", "'signed'"),
                rule("$pubsub", "", "'signed'"),
            ],
            public_streams: vec![Pattern::new("news")],
            signed_names: signed_names(),
            ..Doors::default()
        });

        let open = channels.describe();

        assert_eq!(open.everybody, ["A -> a:{id} if {id} in [1, 2]", "B -> b", "streams news"]);
        // Both asks for more than a signed name, so that none is enough for a channel without a rule.
        assert_eq!(open.signed, ["$pubsub", "Room -> room:{id}"]);
        assert_eq!(open.identified, ["Both, with a signed name", "Mine -> mine:{user.id}"]);
        assert_eq!(channels.for_identified(), ["Both", "Mine"]);
        assert!(channels.without_keys().is_empty() && !open.is_nothing());
    }
}
