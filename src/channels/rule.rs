use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use super::condition::{Condition, ConditionError};
use super::template::{Template, TemplateError};

/// Who may subscribe to a channel, and to which stream that leads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule {
    /// The identifier's channel: `ProgressChannel`.
    pub name: String,
    pub stream: Naming,
    /// Somebody must be identified, whoever it is.
    pub identified: bool,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// Of its streams only the latest message counts.
    pub state: bool,
    /// So many of the last messages a newcomer is given.
    pub replay: usize,
}

/// How an identifier names its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// The template's, filled.
    Template(Template),
    /// The one that its signed name holds.
    Signed,
    /// The template's, filled, which its signed name must hold as well.
    SignedTemplate(Template),
}

/// Why a `[[channel]]` isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {name}: {fault}")]
pub struct RuleError {
    name: String,
    fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it has no allow; {WHO}")]
    NoAllow,
    #[error("it has no stream: only allow = \"signed\" does without, since the signed name is the stream")]
    NoStream,
    #[error(transparent)]
    Stream(#[from] TemplateError),
    #[error("allow: {0:?} is no word of it; {WHO}")]
    Word(String),
    #[error("allow: {0}")]
    Condition(#[from] ConditionError),
    #[error(
        "state and replay contradict each other: of a state a newcomer is given the latest message, and no other"
    )]
    StateReplay,
    #[error("replay: {0} is more than {MAX_REPLAY}, which is as much as a newcomer is given")]
    Replay(usize),
    #[error(
        "allow: public lets in everybody, and what stands beside it (or a {{user.…}} of the stream) does not"
    )]
    NotPublic,
    #[error(
        "allow: these conditions look at parameters alone, which the client chooses: ask for {{user.…}}, \
         identified or signed, or say public as well"
    )]
    Anybody,
}

/// A newcomer is given no more than so many messages: they are kept in memory for each stream that somebody
/// has come to.
pub const MAX_REPLAY: usize = 1000;

const WHO: &str = "it says who may subscribe: public, signed, identified, conditions such as \
                   \"{owner} == {user.id}\", or a list of these that must all hold";

/// A rule as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    stream: Option<String>,
    allow: Option<Words>,
    #[serde(default)]
    state: bool,
    replay: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "allow is a text or a list of texts")]
enum Words {
    One(String),
    All(Vec<String>),
}

impl Rule {
    /// One that is open to everybody.
    pub fn public(name: &str, stream: Template) -> Result<Self, RuleError> {
        let rule = Self {
            name: name.into(),
            stream: Naming::Template(stream),
            identified: false,
            conditions: Vec::new(),
            state: false,
            replay: 0,
        };
        if rule.mentions_user() {
            Err(RuleError { name: rule.name, fault: Fault::NotPublic })
        } else {
            Ok(rule)
        }
    }

    /// Whether nobody gets in who isn't identified.
    pub fn needs_identity(&self) -> bool {
        self.identified || self.mentions_user()
    }

    pub fn needs_signature(&self) -> bool {
        self.template().is_none() || matches!(self.stream, Naming::SignedTemplate(_))
    }

    pub fn template(&self) -> Option<&Template> {
        match &self.stream {
            Naming::Template(template) | Naming::SignedTemplate(template) => Some(template),
            Naming::Signed => None,
        }
    }

    /// All that it asks of whom it lets in. Conditions on parameters alone ask nothing: the client chooses
    /// them.
    fn demands(&self) -> BTreeSet<String> {
        let conditions = self.conditions.iter().filter(|condition| condition.has_claims());
        let claims = self.template().map(Template::claims).unwrap_or_default();
        let claims = claims.into_iter().map(|(position, claim)| format!("{claim} at {position}"));
        let words = [(self.needs_identity(), "identified"), (self.needs_signature(), "signed")];
        let words = words.into_iter().filter(|(asks, _)| *asks).map(|(_, word)| word.to_owned());
        words.chain(conditions.map(Condition::to_string)).chain(claims).collect()
    }

    /// Whether it lets somebody into a stream of `other`'s whom that wouldn't. A signed name is the application's
    /// own word, about that very stream; and who writes a condition of its own for streams of the same
    /// wording means a second door, such as one for administrators.
    pub fn undermines(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (self.template(), other.template()) else { return false };
        if self.needs_signature() || !own.can_meet(others) {
            return false;
        }
        let (asked, wanted) = (self.demands(), other.demands());
        let has_condition = self.conditions.iter().any(Condition::has_claims);
        let is_second_door = has_condition && !asked.is_subset(&wanted) && own.is_worded_as(others);
        !wanted.is_subset(&asked) && !is_second_door
    }

    fn mentions_user(&self) -> bool {
        self.conditions.iter().any(Condition::has_claims) || self.template().is_some_and(Template::has_claims)
    }
}

impl TryFrom<Written> for Rule {
    type Error = RuleError;

    fn try_from(written: Written) -> Result<Self, RuleError> {
        let name = written.name.clone();
        read(written).map_err(|fault| RuleError { name, fault })
    }
}

fn read(written: Written) -> Result<Rule, Fault> {
    let words = match written.allow.ok_or(Fault::NoAllow)? {
        Words::One(word) => vec![word],
        Words::All(words) => words,
    };
    if words.is_empty() {
        return Err(Fault::NoAllow);
    }
    let (mut public, mut signed, mut identified) = (false, false, false);
    let mut conditions = Vec::new();
    for word in words {
        match word.as_str() {
            "public" => public = true,
            "signed" => signed = true,
            "identified" => identified = true,
            // A misspelt word is told as one.
            other if other.chars().all(char::is_alphanumeric) => return Err(Fault::Word(word)),
            other => conditions.push(other.parse()?),
        }
    }
    let template = written.stream.map(|text| text.parse()).transpose()?;
    let stream = match (template, signed) {
        (Some(template), false) => Naming::Template(template),
        (Some(template), true) => Naming::SignedTemplate(template),
        (None, true) => Naming::Signed,
        (None, false) => return Err(Fault::NoStream),
    };
    let (state, replay) = match (written.state, written.replay) {
        (true, Some(_)) => return Err(Fault::StateReplay),
        (_, Some(count)) if count > MAX_REPLAY => return Err(Fault::Replay(count)),
        (state, replay) => (state, replay.unwrap_or_default()),
    };
    let rule = Rule { name: written.name, stream, identified, conditions, state, replay };
    let is_closed = signed || rule.needs_identity();
    match (public, is_closed) {
        (true, true) => Err(Fault::NotPublic),
        (false, false) => Err(Fault::Anybody),
        _ => Ok(rule),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(template) = self.template() {
            write!(f, " -> {template}")?;
        }
        for (position, condition) in self.conditions.iter().enumerate() {
            write!(f, " {} {condition}", if position == 0 { "if" } else { "and" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(toml: &str) -> Result<Rule, String> {
        toml::from_str(toml).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn allow(allow: &str) -> Result<Rule, String> {
        rule(&format!("name = \"C\"\nstream = \"c:{{id}}\"\nallow = {allow}"))
    }

    #[test]
    fn allow_is_a_word_a_condition_or_a_list_of_them() {
        assert!(!allow("'public'").unwrap().needs_identity());
        assert!(allow("'identified'").unwrap().needs_identity());
        assert!(allow("['identified']").unwrap().needs_identity());
        let signed = allow("'signed'").unwrap();
        assert!(signed.needs_signature() && !signed.needs_identity());
        let both = allow("['signed', 'identified']").unwrap();
        assert!(both.needs_signature() && both.needs_identity());
        assert!(allow(r#""{id} in {user.jobs}""#).unwrap().needs_identity());
        let all = allow(r#"["signed", "{id} in {user.jobs}", "{user.role} == 'admin'"]"#).unwrap();
        assert!(all.needs_signature() && all.needs_identity());
        assert_eq!(all.to_string(), "C -> c:{id} if {id} in {user.jobs} and {user.role} == 'admin'");
        assert!(!allow(r#"["public", "{id} in ['a', 'b']"]"#).unwrap().needs_identity());
    }

    #[test]
    fn a_claim_in_the_name_needs_an_identity() {
        let named = |allow: &str| rule(&format!("name = \"C\"\nstream = \"c:{{user.id}}\"\nallow = {allow}"));
        assert!(named("'identified'").unwrap().needs_identity());
        assert!(named("'signed'").unwrap().needs_identity());
        assert!(named("'public'").unwrap_err().contains("rule C: allow: public lets in everybody"));
        let gid = "name = \"C\"\nstream = \"{gid(User, user.id)}\"\nallow = \"signed\"";
        assert!(rule(gid).unwrap().needs_identity());
        assert!(Rule::public("C", "c:{user.id}".parse().unwrap()).is_err());
    }

    #[test]
    fn a_rule_undermines_one_that_asks_for_what_it_does_not() {
        let ruled = |stream: &str, allow: &str| {
            rule(&format!("name = \"C\"\nstream = \"{stream}\"\nallow = {allow}")).unwrap()
        };
        let own = ruled("room_own_{user.id}", "'identified'");
        let admins = r#""{user.role} == 'admin'""#;
        for (stream, allow, undermines) in [
            ("room_{room}", "'public'", true),
            ("room_{room}", r#"["public", "{room} in ['lobby']"]"#, true),
            ("room_{room}", "'identified'", true),
            ("room_{room}", r#""{user.role} != 'guest'""#, true),
            ("room_own_{id}", "'identified'", true),
            ("room_own_{user.name}", "'identified'", true),
            ("room_own_{id}", admins, false),
            ("room_own_{user.id}", "'identified'", false),
            ("room_{room}", "'signed'", false),
            ("room:{room}", "'public'", false),
        ] {
            assert_eq!(ruled(stream, allow).undermines(&own), undermines, "{stream} {allow}");
            assert!(!own.undermines(&ruled("room_{room}", "'public'")));
        }
        let signed = ruled("room_own_{id}", "'signed'");
        assert!(ruled("room_own_{id}", "'public'").undermines(&signed) && own.undermines(&signed));
        let stricter = ruled("room_own_{id}", &format!("[{admins}, \"{{user.mfa}} == 'yes'\"]"));
        assert!(ruled("room_own_{id}", admins).undermines(&stricter));
        let (one, other) = ("x:{user.id}:{job}", "x:{job}:{user.id}");
        assert!(ruled(one, "'identified'").undermines(&ruled(other, "'identified'")));
    }

    #[test]
    fn only_a_signed_name_can_be_the_stream() {
        assert_eq!(rule("name = \"C\"\nallow = \"signed\"").unwrap().stream, Naming::Signed);
        let error = rule("name = \"C\"\nallow = \"identified\"").unwrap_err();
        assert!(error.contains("rule C: it has no stream"), "{error}");
    }

    #[test]
    fn a_newcomer_gets_the_latest_of_a_state_or_the_last_events() {
        let with = |keys: &str| rule(&format!("name = \"C\"\nstream = \"c\"\nallow = \"public\"\n{keys}"));
        assert_eq!(with("replay = 50").unwrap().replay, 50);
        assert_eq!(with("state = false\nreplay = 0").unwrap().replay, 0);
        assert!(with("state = true").unwrap().state);
        let error = with("state = true\nreplay = 1").unwrap_err();
        assert!(error.contains("rule C: state and replay contradict each other"), "{error}");
        let error = with("replay = 1001").unwrap_err();
        assert!(error.contains("rule C: replay: 1001 is more than 1000"), "{error}");
        assert!(with("replay = -1").is_err());
    }

    #[test]
    fn what_lets_in_anybody_must_say_public() {
        for trap in [r#""{role} == 'admin'""#, r#"["{a} == {b}", "{c} in [1]"]"#] {
            let error = allow(trap).unwrap_err();
            assert!(error.contains("rule C: allow: these conditions look at parameters alone"), "{error}");
        }
        for contradiction in
            ["['public', 'signed']", "['public', 'identified']", r#"["public", "{id} == {user.id}"]"#]
        {
            let error = allow(contradiction).unwrap_err();
            assert!(error.contains("public lets in everybody"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_rule_and_the_place() {
        for (written, part) in [
            ("[]", "rule C: it has no allow"),
            ("'Public'", "rule C: allow: \"Public\" is no word of it"),
            ("['signed', 'everybody']", "rule C: allow: \"everybody\" is no word of it"),
            ("''", "rule C: allow: \"\" is no word of it"),
            (r#""{id} = {user.id}""#, r#"rule C: allow: "{id} = {user.id}", character 6: there must be =="#),
            ("7", "allow is a text or a list of texts"),
            ("['public', 7]", "allow is a text or a list of texts"),
        ] {
            let error = allow(written).unwrap_err();
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let error = rule("name = \"C\"\nstream = \"c:{\"\nallow = \"public\"").unwrap_err();
        assert!(error.contains("rule C: \"c:{\" has a { without its }"), "{error}");
    }

    #[test]
    fn the_rules_of_the_page_are_rules() {
        #[derive(Deserialize)]
        struct File {
            channel: Vec<Rule>,
        }
        let page = include_str!("../../docs/channels.md");
        let blocks = page.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
        let (files, lines): (Vec<_>, Vec<_>) = blocks.partition(|block| block.contains("[[channel]]"));

        let rules = files.iter().map(|file| toml::from_str::<File>(file).unwrap().channel.len());
        assert_eq!(rules.sum::<usize>(), 7);
        let conditions = lines.iter().flat_map(|block| block.lines());
        let conditions = conditions.map(|line| allow(line.strip_prefix("allow = ").unwrap()).unwrap());
        assert_eq!(conditions.count(), 5);
    }
}
