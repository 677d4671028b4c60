//! What a server's settings say: whether it can be followed, and what would be better otherwise.

use super::connect::Server;
use super::error::SetupError;

/// Whether the server can be followed at all.
pub fn refuse(server: &Server) -> Result<(), SetupError> {
    if !server.variable("memsql_version").is_empty() {
        return Err(SetupError::AnotherKind("SingleStore"));
    }
    if server.is_on("wsrep_on") {
        return Err(SetupError::MultiPrimary("Galera (wsrep_on)"));
    }
    if !server.variable("group_replication_group_name").is_empty()
        && server.variable("group_replication_single_primary_mode") == "OFF"
    {
        return Err(SetupError::MultiPrimary("group_replication_single_primary_mode = OFF"));
    }
    match ["read_only", "innodb_read_only"].into_iter().find(|name| server.is_on(name)) {
        Some(name) => Err(SetupError::ReadOnly(name.to_owned())),
        None => Ok(()),
    }
}

/// What works here, and would work better otherwise.
pub fn advice_on(server: &Server, max_payload_bytes: usize, is_made: bool) -> Vec<String> {
    let mut advice = Vec::new();
    if server.number("innodb_thread_concurrency") > 0 {
        advice.push(
            "innodb_thread_concurrency is above 0: a writer that queues between its id and its row may be overlooked; set it to 0".into(),
        );
    }
    let increment = server.number("auto_increment_increment");
    if increment > 1 {
        advice.push(format!(
            "auto_increment_increment is {increment}: rows that come by replication from another primary can't be followed; \
             if there is none, set it to 1"
        ));
    }
    if !is_made && server.is_on("log_bin") && !server.is_on("log_bin_trust_function_creators") {
        advice.push(
            "log_bin_trust_function_creators is off: `tablecast migrate` needs it, or an account with SUPER"
                .into(),
        );
    }
    let packet = server.number("max_allowed_packet");
    if packet < max_payload_bytes as u64 + PACKET_OVERHEAD {
        advice.push(format!(
            "max_allowed_packet is {packet}, so that the largest messages are refused: raise it, or lower --max-payload-bytes"
        ));
    }
    advice
}

/// What a statement with one row takes beside its payload, at most.
pub const PACKET_OVERHEAD: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<(), String> {
        refuse(&Server::with(variables)).map_err(|error| error.to_string())
    }

    #[test]
    fn clusters_of_several_primaries_and_replicas_are_refused() {
        assert_eq!(with(&[("wsrep_on", "OFF"), ("read_only", "OFF")]), Ok(()));
        let group = ("group_replication_group_name", "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa");
        let mode = "group_replication_single_primary_mode";
        assert_eq!(with(&[group, (mode, "ON")]), Ok(()));
        assert_eq!(with(&[("group_replication_group_name", ""), (mode, "OFF")]), Ok(()));
        for (variables, said) in [
            (&[("wsrep_on", "ON")][..], "Galera"),
            (&[group, (mode, "OFF")], "single_primary_mode"),
            (&[("read_only", "ON")], "name the primary"),
            (&[("innodb_read_only", "ON")], "innodb_read_only"),
            (&[("memsql_version", "8.1")], "SingleStore"),
        ] {
            let error = with(variables).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_works_and_would_better_otherwise_is_advised() {
        let advice =
            |variables: &[(&str, &str)]| advice_on(&Server::with(variables), 1 << 20, false).join(" ");
        let packet = ("max_allowed_packet", "16777216");
        assert_eq!(advice(&[packet, ("auto_increment_increment", "1")]), "");
        assert!(advice(&[packet, ("innodb_thread_concurrency", "8")]).contains("set it to 0"));
        assert!(
            advice(&[packet, ("log_bin", "ON"), ("log_bin_trust_function_creators", "OFF")])
                .contains("SUPER")
        );
        assert!(advice(&[("max_allowed_packet", "1048576")]).contains("raise it"));
    }
}
