use std::sync::LazyLock;

use crate::bus::gaps::Gaps;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// Every metric, registered once: a handle is one atomic.
///
/// None is labelled by stream, client or anything else that a stranger can make many of.
pub struct Metrics {
    pub connections: Gauge,
    pub subscriptions: Gauge,
    pub following: Gauge,
    pub tail_position: Gauge,
    pub gaps: Gauge,
    pub gaps_given_up: Counter,
    pub gaps_capped: Counter,
    pub rows_released: Counter,
    pub rows_not_json: Counter,
    pub rows_too_large: Counter,
    pub rows_not_a_name: Counter,
    pub rows_stray: Counter,
    pub rows_after_giving_up: Counter,
    pub rows_wrong_hash: Counter,
    pub publishes_pending: Gauge,
    pub publishes_committed: Counter,
    pub publishes_replayed: Counter,
    pub publishes_failed: Counter,
    pub publishes_refused: Counter,
    pub deliveries_queued: Counter,
    pub deliveries_slow: Counter,
    pub commands_subscribe: Counter,
    pub commands_unsubscribe: Counter,
    pub commands_message: Counter,
    pub commands_malformed: Counter,
    pub subscribes_confirmed: Counter,
    pub subscribes_rejected: Counter,
    pub subscribes_repeated: Counter,
    pub commands_history: Counter,
    pub commands_foreign: Counter,
    pub resumed: Counter,
    pub replayed_messages: Counter,
    pub replays_failed: Counter,
}

/// Registered with the recorder that was installed first, or with none in a test.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
    &METRICS
}

impl Metrics {
    /// Counts what was refused, by reason: one of a few words in the source.
    pub fn refused(&self, reason: &'static str) {
        counter!(REFUSALS, "reason" => reason).increment(1);
    }

    /// Counts a client that can't be given what it missed, by the word for why.
    pub fn not_resumed(&self, reason: &'static str) {
        counter!(RESUMES, "result" => reason).increment(1);
    }

    /// Counts a connection that ended, by the word for why.
    pub fn closed(&self, reason: &'static str) {
        counter!(CLOSED, "reason" => reason).increment(1);
    }

    /// Counts a cookie of a handshake that can't be read, by the word for why.
    pub fn cookie_unreadable(&self, reason: &'static str) {
        counter!(COOKIES_UNREADABLE, "reason" => reason).increment(1);
    }

    /// Counts a TLS handshake that failed, by the word for why.
    pub fn handshake_failed(&self, reason: &'static str) {
        counter!(HANDSHAKES_FAILED, "reason" => reason).increment(1);
    }

    /// How far the tail is.
    pub fn followed(&self, gaps: &Gaps) {
        let counts = gaps.counts();
        self.tail_position.set(gaps.high() as f64);
        self.gaps.set(gaps.open_ranges() as f64);
        self.gaps_given_up.absolute(counts.given_up);
        self.gaps_capped.absolute(counts.capped);
    }

    fn register() -> Self {
        describe_gauge!(CONNECTIONS, "WebSockets and event streams that are open");
        describe_gauge!(SUBSCRIPTIONS, "Confirmed subscriptions");
        describe_gauge!(FOLLOWING, "1 while the tail follows the database, 0 while that is away");
        describe_gauge!(TAIL_POSITION, "Id of the last row that the tail has read");
        describe_gauge!(GAPS, "Ranges of ids that the tail has passed and that may still come");
        describe_counter!(GAP_RESULTS, "Ranges of ids that were given up, by why");
        describe_counter!(ROWS, "Rows that the tail has read, by what became of them");
        describe_counter!(
            ROW_FAULTS,
            "Rows that are delivered and shouldn't be as they are, by what is wrong"
        );
        describe_gauge!(PENDING, "Publishes by HTTP that wait for the database");
        describe_counter!(PUBLISHES, "Messages published by HTTP, by result");
        describe_counter!(DELIVERIES, "Messages put into connections' queues, or not for want of room");
        describe_counter!(COMMANDS, "Clients' commands, by kind");
        describe_counter!(SUBSCRIBES, "Subscribe commands, by answer");
        describe_counter!(REFUSALS, "Requests and connections that were refused, by reason");
        describe_counter!(CLOSED, "WebSockets and event streams that ended, by reason");
        describe_counter!(
            COOKIES_UNREADABLE,
            "Cookies that should say who connects and can't be read, by reason"
        );
        describe_counter!(HANDSHAKES_FAILED, "TLS handshakes that failed, by reason");
        describe_counter!(
            RESUMES,
            "Clients that came back to go on where they were, by whether they could or why not"
        );
        describe_counter!(REPLAYED, "Messages read from the table for clients that came back");
        describe_counter!(REPLAYS_FAILED, "Streams whose last messages could not be read for newcomers");
        Self {
            connections: gauge!(CONNECTIONS),
            subscriptions: gauge!(SUBSCRIPTIONS),
            following: gauge!(FOLLOWING),
            tail_position: gauge!(TAIL_POSITION),
            gaps: gauge!(GAPS),
            gaps_given_up: counter!(GAP_RESULTS, "result" => "given_up"),
            gaps_capped: counter!(GAP_RESULTS, "result" => "capped"),
            rows_released: counter!(ROWS, "result" => "released"),
            rows_not_json: counter!(ROWS, "result" => "not_json"),
            rows_too_large: counter!(ROWS, "result" => "too_large"),
            rows_not_a_name: counter!(ROWS, "result" => "not_a_name"),
            rows_stray: counter!(ROW_FAULTS, "fault" => "above_sequence"),
            rows_after_giving_up: counter!(ROW_FAULTS, "fault" => "after_giving_up"),
            rows_wrong_hash: counter!(ROW_FAULTS, "fault" => "wrong_hash"),
            publishes_pending: gauge!(PENDING),
            publishes_committed: counter!(PUBLISHES, "result" => "committed"),
            publishes_replayed: counter!(PUBLISHES, "result" => "replayed"),
            publishes_failed: counter!(PUBLISHES, "result" => "failed"),
            publishes_refused: counter!(PUBLISHES, "result" => "refused"),
            deliveries_queued: counter!(DELIVERIES, "result" => "queued"),
            deliveries_slow: counter!(DELIVERIES, "result" => "slow_consumer"),
            commands_subscribe: counter!(COMMANDS, "command" => "subscribe"),
            commands_unsubscribe: counter!(COMMANDS, "command" => "unsubscribe"),
            commands_message: counter!(COMMANDS, "command" => "message"),
            commands_malformed: counter!(COMMANDS, "command" => "malformed"),
            subscribes_confirmed: counter!(SUBSCRIBES, "answer" => "confirmed"),
            subscribes_rejected: counter!(SUBSCRIBES, "answer" => "rejected"),
            subscribes_repeated: counter!(SUBSCRIBES, "answer" => "repeated"),
            commands_history: counter!(COMMANDS, "command" => "history"),
            commands_foreign: counter!(COMMANDS, "command" => "foreign"),
            resumed: counter!(RESUMES, "result" => "resumed"),
            replayed_messages: counter!(REPLAYED),
            replays_failed: counter!(REPLAYS_FAILED),
        }
    }
}

/// Starts counting; the handle renders what was counted.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().install_recorder()
}

const CONNECTIONS: &str = "tablecast_connections";
const SUBSCRIPTIONS: &str = "tablecast_subscriptions";
const FOLLOWING: &str = "tablecast_tail_following";
const TAIL_POSITION: &str = "tablecast_tail_position";
const GAPS: &str = "tablecast_gaps";
const GAP_RESULTS: &str = "tablecast_gaps_total";
const ROWS: &str = "tablecast_rows_total";
const ROW_FAULTS: &str = "tablecast_row_faults_total";
const PENDING: &str = "tablecast_publishes_pending";
const PUBLISHES: &str = "tablecast_publishes_total";
const DELIVERIES: &str = "tablecast_deliveries_total";
const COMMANDS: &str = "tablecast_commands_total";
const SUBSCRIBES: &str = "tablecast_subscribes_total";
const REFUSALS: &str = "tablecast_refusals_total";
const CLOSED: &str = "tablecast_connections_closed_total";
const RESUMES: &str = "tablecast_resumes_total";
const REPLAYED: &str = "tablecast_replayed_messages_total";
const REPLAYS_FAILED: &str = "tablecast_replays_failed_total";
const COOKIES_UNREADABLE: &str = "tablecast_cookies_unreadable_total";
const HANDSHAKES_FAILED: &str = "tablecast_tls_handshakes_failed_total";
