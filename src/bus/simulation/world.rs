use super::client::Client;
use super::judge::Fault;
use super::scene::Scene;
use super::server::{Handed, ROUND, Server};
use super::stage::{END, HOPPING, MS, SECOND, Seen, Stage, Time, WRITING};

/// Everything of one seed.
pub struct World {
    stage: Stage,
    servers: Vec<Server>,
    clients: Vec<Client>,
    calendar: Vec<(Time, Event)>,
}

/// A fault, when, and in whose turn.
pub struct Failure {
    pub fault: Fault,
    pub at: Time,
    pub event: Event,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { fault, at, event } = self;
        write!(f, "{fault:?} after {at} µs, in the turn of {event:?}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Session(usize),
    Server(usize),
    Client(usize),
    /// Somebody writes to another table.
    Elsewhere,
    /// A server does.
    Trim(usize),
    Stop(usize),
    /// The database crashes, or a replica that has every row is promoted.
    Restart,
    /// A replica is promoted that lacks some.
    Loss,
    End,
}

impl World {
    pub fn new(seed: u64, scene: Scene) -> Self {
        let mut stage = Stage::new(seed, scene);
        let random = &mut stage.random;
        let servers: Vec<Server> = (0..random.within(1, 4)).map(|_| Server::new(random)).collect();
        let clients = (0..random.within(1, 5)).map(|_| Client::new(random)).collect();
        let stops =
            servers.iter().enumerate().filter_map(|(at, server)| Some((server.stops_at?, Event::Stop(at))));
        let mut calendar: Vec<_> = stops.collect();
        calendar.extend([(0, Event::Elsewhere), (END, Event::End)]);
        calendar.extend((0..servers.len()).map(|at| (random.below(2 * SECOND), Event::Trim(at))));
        if random.one_in(2) {
            calendar.push((random.within(2 * SECOND, HOPPING), Event::Restart));
        }
        if random.one_in(4) {
            calendar.push((random.within(2 * SECOND, WRITING), Event::Loss));
        }
        Self { stage, servers, clients, calendar }
    }

    pub fn run(mut self) -> Result<Seen, Failure> {
        loop {
            let (at, event) = self.next();
            self.stage.now = at;
            self.stage.moment += 1;
            let failure = |fault| Failure { fault, at, event };
            self.take(event).map_err(failure)?;
            if event == Event::End || (event == Event::Elsewhere && self.is_done()) {
                self.verdict().map_err(failure)?;
                return Ok(self.stage.seen);
            }
        }
    }

    fn next(&self) -> (Time, Event) {
        let (session, due) = self.stage.writers.next();
        let servers = self.servers.iter().enumerate().map(|(at, server)| (server.due, Event::Server(at)));
        let clients = self.clients.iter().enumerate().map(|(at, client)| (client.next(), Event::Client(at)));
        let calendar = self.calendar.iter().copied();
        let others = calendar.chain(servers).chain(clients);
        others.fold(
            (due, Event::Session(session)),
            |first, other| if other.0 < first.0 { other } else { first },
        )
    }

    fn take(&mut self, event: Event) -> Result<(), Fault> {
        let Self { stage, servers, clients, calendar } = self;
        match event {
            Event::Session(at) => {
                for row in stage.write(at) {
                    for server in servers.iter_mut() {
                        server.owe(row, stage);
                    }
                    for client in clients.iter_mut() {
                        client.owe(row, stage);
                    }
                }
            }
            Event::Server(at) => self.serve(at)?,
            Event::Client(at) => clients[at].step(servers, stage)?,
            Event::Elsewhere => {
                let xid = stage.database.begin_xid();
                stage.database.end_xid(xid);
                reschedule(calendar, event, stage.now + 200 * MS);
            }
            Event::Trim(at) => {
                for row in servers[at].trim(stage) {
                    for server in servers.iter_mut() {
                        server.trimmed(row, stage);
                    }
                    for client in clients.iter_mut() {
                        client.trimmed(row, stage);
                    }
                }
                let pause = ROUND + stage.random.below(SECOND);
                reschedule(calendar, event, stage.now + pause);
            }
            Event::Stop(at) => {
                calendar.retain(|(_, other)| *other != event);
                servers[at].stop(stage);
                for client in clients {
                    client.turned_away(at, stage);
                }
            }
            Event::Restart | Event::Loss => {
                calendar.retain(|(_, other)| *other != event);
                stage.crash(event == Event::Loss);
                for server in servers {
                    server.cut_off(stage);
                }
                for client in clients {
                    client.drop_lost(stage);
                }
            }
            Event::End => {}
        }
        Ok(())
    }

    fn serve(&mut self, at: usize) -> Result<(), Fault> {
        let Self { stage, servers, clients, .. } = self;
        match servers[at].step(stage)? {
            Handed::Nothing => {}
            Handed::Messages(batch) => {
                for client in clients.iter_mut() {
                    client.get(at, &batch, stage)?;
                }
            }
            Handed::NewHistory => {
                for client in clients.iter_mut() {
                    client.turned_away(at, stage);
                }
            }
        }
        for client in clients {
            client.hear(at, servers, stage)?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let is_quiet = self.stage.writers.next().1 == Time::MAX;
        is_quiet && self.servers.iter().all(Server::is_done) && self.clients.iter().all(Client::is_settled)
    }

    fn verdict(&self) -> Result<(), Fault> {
        let database = &self.stage.database;
        for life in self.servers.iter().filter_map(|server| server.life.as_ref()) {
            if let Some(id) = life.owed.first(database) {
                return Err(Fault::Lost(id));
            }
            if life.gaps.open_ranges() > 0 {
                return Err(Fault::NotDrained(life.gaps.open_ranges()));
            }
        }
        self.clients.iter().flat_map(|client| &client.subscriptions).try_for_each(|s| s.verdict(database))
    }
}

fn reschedule(calendar: &mut [(Time, Event)], event: Event, at: Time) {
    let entry = calendar.iter_mut().find(|(_, other)| *other == event);
    entry.expect("it is in the calendar").0 = at;
}
