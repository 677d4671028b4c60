use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::household;

const SECOND: u64 = 1_000_000_000;

/// Lets so many through a second, and a second's worth of them at once.
///
/// It is a token bucket in one number (GCRA): the time, in nanoseconds, until which all that was
/// let through has been paid for. Calls say how much time has passed since some start.
pub struct Rate {
    interval: u64,
    paid_until: AtomicU64,
}

/// A rate for each address, in a table of a fixed size.
///
/// Addresses that fall on one bucket share its rate. Which do is drawn anew by each process, so
/// that nobody can choose an address to use up another's.
pub struct AddressRates {
    interval: u64,
    paid_until: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// Of a thousand addresses that are busy at one time, some fifteen share a bucket; half a megabyte.
const BUCKETS: usize = 1 << 16;

impl Rate {
    pub fn new(per_second: u32) -> Self {
        Self { interval: SECOND / u64::from(per_second), paid_until: AtomicU64::default() }
    }

    pub fn take(&self, now: Duration) -> bool {
        take(&self.paid_until, self.interval, now)
    }
}

impl AddressRates {
    pub fn new(per_second: u32) -> Self {
        Self {
            interval: SECOND / u64::from(per_second),
            paid_until: std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect(),
            hasher: RandomState::new(),
        }
    }

    pub fn take(&self, address: IpAddr, now: Duration) -> bool {
        take(&self.paid_until[self.bucket(address)], self.interval, now)
    }

    fn bucket(&self, address: IpAddr) -> usize {
        self.hasher.hash_one(household(address)) as usize % BUCKETS
    }
}

fn take(paid_until: &AtomicU64, interval: u64, now: Duration) -> bool {
    let now = now.as_nanos() as u64;
    let pay = |paid: u64| {
        let paid = paid.max(now) + interval;
        (paid <= now + SECOND).then_some(paid)
    };
    paid_until.fetch_update(Relaxed, Relaxed, pay).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of as many calls as one can make are let through at a time.
    fn taken(mut take: impl FnMut() -> bool) -> usize {
        (0..1000).filter(|_| take()).count()
    }

    #[test]
    fn a_second_gives_as_many_as_it_says_and_a_rest_no_more_than_that() {
        let rate = Rate::new(10);
        let at = |seconds: f64| taken(|| rate.take(Duration::from_secs_f64(seconds)));

        assert_eq!(at(0.0), 10);
        assert_eq!(at(0.05), 0);
        assert_eq!(at(0.1), 1);
        assert_eq!(at(0.55), 4);
        assert_eq!(at(3600.0), 10);
    }

    #[test]
    fn addresses_have_a_rate_each_and_an_ipv6_network_has_one() {
        let rates = AddressRates::new(1);
        let one = IpAddr::from([192, 0, 2, 1]);
        let of_network = |n, host| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, host]);
        let n = (0..).find(|n| rates.bucket(of_network(*n, 1)) != rates.bucket(one)).unwrap();
        let take = |address| rates.take(address, Duration::ZERO);

        assert!(take(one));
        assert!(!take(one));
        assert!(take(of_network(n, 1)));
        assert!(!take(of_network(n, 2)));
        assert!(rates.take(one, Duration::from_secs(1)));
    }

    #[test]
    fn which_addresses_share_a_bucket_can_not_be_known_from_outside() {
        let (one, other) = (AddressRates::new(1), AddressRates::new(1));
        let same = (0..1000u32).map(|n| IpAddr::V4(n.into())).filter(|a| one.bucket(*a) == other.bucket(*a));
        assert!(same.count() < 20);
    }

    #[test]
    fn ten_million_addresses_take_half_a_megabyte_and_leave_an_idle_one_its_rate() {
        let rates = AddressRates::new(1000);
        let mut refused = 0;
        for n in 0..10_000_000u32 {
            // A day's, at an even pace.
            let now = Duration::from_secs(86_400).mul_f64(f64::from(n) / 1e7);
            refused += usize::from(!rates.take(IpAddr::V4(n.into()), now));
        }

        assert_eq!(refused, 0);
        assert_eq!(std::mem::size_of_val(&*rates.paid_until), 512 << 10);
        assert_eq!(taken(|| rates.take([192, 0, 2, 1].into(), Duration::from_secs(86_401))), 1000);
    }
}
