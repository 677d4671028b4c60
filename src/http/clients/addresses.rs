use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::household;

/// How many connections each address has open: of those that have one, so that the map is never
/// larger than the number of connections.
pub struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One of an address's connections, until it is dropped.
pub struct Place {
    addresses: Arc<Addresses>,
    household: IpAddr,
}

impl Addresses {
    pub fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// None where the address has as many as it may.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let household = household(address);
        let mut open = self.open.lock();
        let count = open.entry(household).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), household })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock();
        let count = open.get_mut(&self.household).expect("it was counted");
        *count -= 1;
        if *count == 0 {
            open.remove(&self.household);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_each_is_given_back() {
        let addresses = Arc::new(Addresses::new(2));
        let enter = |text: &str| addresses.enter(text.parse().unwrap());

        let (first, _second) = (enter("192.0.2.1"), enter("192.0.2.1"));
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        let _one = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(enter("2001:db8::3").is_none());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
    }

    #[test]
    fn ten_million_addresses_take_no_more_than_those_that_are_connected() {
        let addresses = Arc::new(Addresses::new(1));
        let mut open = VecDeque::new();
        for n in 0..10_000_000u32 {
            open.push_back(addresses.enter(IpAddr::V4(n.into())).unwrap());
            if open.len() > 1000 {
                open.pop_front();
            }
        }

        assert_eq!(addresses.open.lock().len(), 1000);
        let capacity = addresses.open.lock().capacity();
        assert!(capacity < 4000, "room for {capacity}");
        drop(open);
        assert!(addresses.open.lock().is_empty());
    }
}
