//! Settings that are each right, and together open what nobody means to open.

/// What the combinations depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The public listener is on an address that isn't loopback.
    pub is_reachable: bool,
    /// The public listener speaks TLS.
    pub speaks_tls: bool,
    /// A proxy stands before it, and is known (`--trusted-proxies`).
    pub is_behind_proxy: bool,
    /// `--allowed-origins *`.
    pub takes_any_origin: bool,
    /// Cookies say who is connected: a browser sends them for whatever page asks it to.
    pub cookies_identify: bool,
    /// Cookies, tokens or whatever else say who is connected.
    pub something_identifies: bool,
    /// Publishing needs no key anywhere.
    pub publishing_is_open: bool,
    /// `--public-streams *`.
    pub every_stream_is_public: bool,
    /// How each secret is given that somebody chose, and its length in bytes.
    pub secrets: Vec<(&'static str, usize)>,
    /// The rules that let in only who is identified.
    pub rules_for_identified: Vec<String>,
    /// The rules that need a signed name, and for whose names there is no key.
    pub rules_without_keys: Vec<String>,
    /// Of doors that lead to the same streams one that asks for less, and the rule that it gets around.
    pub undermined_rules: Vec<[String; 2]>,
    /// `--rails-cbc-cookies` with a cookie that it can't read.
    pub reads_cbc_in_vain: bool,
    /// A JWKS that is fetched so that who is on the way can put in keys of their own.
    pub plain_jwks: Option<String>,
    /// Tokens are judged by a JWKS, whomever they are for.
    pub takes_tokens_for_others: bool,
}

/// One thing that is wrong with a server's settings as a whole.
///
/// All of them count as errors, also those that are only useless: who puts `check` before a
/// deployment reads what fails it, and each is settled by a setting that says it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    #[error(
        "--public-streams * on an address that can be reached from elsewhere, and publishing needs no key: whatever \
         runs on this machine can publish anything to everybody: set --publish-key, or open fewer streams"
    )]
    EveryStream,
    #[error(
        "{setting} is {bytes} bytes long, and one under {LEAST_SECRET_BYTES} can be guessed: `openssl rand -hex 32` \
         makes a good one"
    )]
    WeakSecret { setting: &'static str, bytes: usize },
    #[error(
        "--allowed-origins * with cookies as identity: any page that a user looks at can listen with the user's \
         rights: list the pages"
    )]
    CookiesOfAnyOrigin,
    #[error(
        "cookies as identity over plain HTTP, on an address that can be reached from elsewhere: who is on the way \
         reads them: set --tls-cert and --tls-key, or --trusted-proxies where a proxy ends TLS"
    )]
    PlainCookies,
    #[error(
        "nothing says who is connected, and these rules ask it, so that they let in nobody: {}: set tokens or cookies",
        .rules.join(", ")
    )]
    NobodyIdentified { rules: Vec<String> },
    #[error(
        "there is no key for the signed names of these rules, so that they let in nobody: {}: set --secret \
         or --secret-key-base",
        .rules.join(", ")
    )]
    NoKeys { rules: Vec<String> },
    #[error(
        "{door} can lead to a stream of {rule}, and doesn't ask for what that asks: name their streams so that they \
         can't be the same (no value holds a colon, so room:{{room}} never is own:{{user.id}}), or let both ask for it"
    )]
    Undermined { door: String, rule: String },
    #[error(
        "--rails-cbc-cookies does nothing: it is for cookies encrypted:NAME or session:NAME, and their keys are derived \
         from --secret-key-base alone: set that, or take it away"
    )]
    CbcInVain,
    #[error(
        "--jwks {url} over plain HTTP: who is on the way can put in a key and be anybody: give an https URL, or a file"
    )]
    PlainJwks { url: String },
    #[error(
        "--jwks without --jwt-audience: whoever keeps these keys signs tokens for other applications with them, and each \
         is accepted here: say which are meant"
    )]
    TokensForOthers,
}

/// HMAC-SHA256 with a shorter key is as weak as the key (RFC 2104, 3; RFC 7518, 3.2).
pub const LEAST_SECRET_BYTES: usize = 32;

impl Facts {
    pub fn unsafe_combinations(&self) -> Vec<Unsafe> {
        let mut found = Vec::new();
        let mut note = |is_so: bool, what: Unsafe| {
            if is_so {
                found.push(what);
            }
        };
        note(
            self.is_reachable && self.every_stream_is_public && self.publishing_is_open,
            Unsafe::EveryStream,
        );
        for &(setting, bytes) in &self.secrets {
            note(bytes < LEAST_SECRET_BYTES, Unsafe::WeakSecret { setting, bytes });
        }
        note(self.cookies_identify && self.takes_any_origin, Unsafe::CookiesOfAnyOrigin);
        let is_plain = !self.speaks_tls && !self.is_behind_proxy;
        note(self.cookies_identify && self.is_reachable && is_plain, Unsafe::PlainCookies);
        let rules = self.rules_for_identified.clone();
        note(!self.something_identifies && !rules.is_empty(), Unsafe::NobodyIdentified { rules });
        let rules = self.rules_without_keys.clone();
        note(!rules.is_empty(), Unsafe::NoKeys { rules });
        for [door, rule] in self.undermined_rules.clone() {
            note(true, Unsafe::Undermined { door, rule });
        }
        note(self.reads_cbc_in_vain, Unsafe::CbcInVain);
        if let Some(url) = self.plain_jwks.clone() {
            note(true, Unsafe::PlainJwks { url });
        }
        note(self.takes_tokens_for_others, Unsafe::TokensForOthers);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Public streams, cookies and rules, all as it should be.
    fn good() -> Facts {
        Facts {
            is_reachable: true,
            speaks_tls: true,
            is_behind_proxy: false,
            takes_any_origin: false,
            cookies_identify: true,
            something_identifies: true,
            publishing_is_open: false,
            every_stream_is_public: true,
            secrets: vec![("--secret", 32)],
            rules_for_identified: vec!["Mine".into()],
            ..Facts::default()
        }
    }

    fn found(change: impl FnOnce(&mut Facts)) -> Vec<Unsafe> {
        let mut facts = good();
        change(&mut facts);
        facts.unsafe_combinations()
    }

    #[test]
    fn what_is_as_it_should_be_is_not_named() {
        assert_eq!(found(|_| {}), []);
        assert_eq!(Facts::default().unsafe_combinations(), []);
    }

    #[test]
    fn every_stream_open_and_publishing_without_a_key_is_unsafe_where_others_reach_it() {
        assert_eq!(found(|facts| facts.publishing_is_open = true), [Unsafe::EveryStream]);
        for change in [
            |facts: &mut Facts| facts.is_reachable = false,
            |facts: &mut Facts| facts.every_stream_is_public = false,
        ] {
            assert_eq!(
                found(|facts| {
                    facts.publishing_is_open = true;
                    change(facts);
                }),
                []
            );
        }
    }

    #[test]
    fn each_secret_under_32_bytes_is_weak() {
        let weak =
            found(|facts| facts.secrets = vec![("--secret", 31), ("--publish-key", 32), ("--jwt-key", 0)]);
        assert_eq!(
            weak,
            [
                Unsafe::WeakSecret { setting: "--secret", bytes: 31 },
                Unsafe::WeakSecret { setting: "--jwt-key", bytes: 0 }
            ]
        );
        assert!(weak[0].to_string().starts_with("--secret is 31 bytes long"), "{}", weak[0]);
    }

    #[test]
    fn any_origin_is_unsafe_with_cookies() {
        assert_eq!(found(|facts| facts.takes_any_origin = true), [Unsafe::CookiesOfAnyOrigin]);
        assert_eq!(
            found(|facts| {
                facts.takes_any_origin = true;
                facts.cookies_identify = false;
            }),
            []
        );
    }

    #[test]
    fn plain_http_is_unsafe_with_cookies_where_others_reach_it_and_no_proxy_ends_tls() {
        let plain = |change: fn(&mut Facts)| {
            found(|facts| {
                facts.speaks_tls = false;
                change(facts);
            })
        };
        assert_eq!(plain(|_| {}), [Unsafe::PlainCookies]);
        assert_eq!(plain(|facts| facts.is_behind_proxy = true), []);
        assert_eq!(plain(|facts| facts.is_reachable = false), []);
        assert_eq!(plain(|facts| facts.cookies_identify = false), []);
    }

    #[test]
    fn rules_that_can_let_in_nobody_are_named() {
        let nobody = found(|facts| facts.something_identifies = false);
        assert_eq!(nobody, [Unsafe::NobodyIdentified { rules: vec!["Mine".into()] }]);
        assert!(nobody[0].to_string().contains("they let in nobody: Mine:"), "{}", nobody[0]);

        let unsigned = found(|facts| facts.rules_without_keys = vec!["A".into(), "B".into()]);
        assert_eq!(unsigned, [Unsafe::NoKeys { rules: vec!["A".into(), "B".into()] }]);
        assert!(unsigned[0].to_string().contains("A, B"), "{}", unsigned[0]);
    }
    #[test]
    fn what_opens_more_than_is_seen_and_what_does_nothing_is_named() {
        let undermined = vec![["Room -> room_{room}".to_owned(), "Own -> room_own_{user.id}".to_owned()]];
        let named = found(|facts| {
            facts.undermined_rules = undermined;
            facts.reads_cbc_in_vain = true;
            facts.plain_jwks = Some("http://idp.example.com/keys".into());
            facts.takes_tokens_for_others = true;
        });
        let said: Vec<_> = named.iter().map(Unsafe::to_string).collect();
        let begins = [
            "Room -> room_{room} can lead to a stream of Own -> room_own_{user.id}, and doesn't ask",
            "--rails-cbc-cookies does nothing",
            "--jwks http://idp.example.com/keys over plain HTTP",
            "--jwks without --jwt-audience",
        ];
        assert_eq!(said.len(), begins.len());
        assert!(said.iter().zip(begins).all(|(said, begin)| said.starts_with(begin)), "{said:?}");
        assert!(said[0].contains("room:{room} never is own:{user.id}"), "{}", said[0]);
    }
}
