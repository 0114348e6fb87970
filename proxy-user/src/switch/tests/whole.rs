//! The whole switch in random worlds: the election, the switch, and connections of a datapath that takes its orders late.
//! No byte goes to a node after the fence, nobody is let through before the decision, nothing that stood still is
//! forgotten, and once the world is healthy bytes pass again.

use std::{collections::VecDeque, net::SocketAddr};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    config::Commit,
    election::{
        Rules,
        tests::{
            healing::cure,
            script::rules,
            walk::{Step, Weather, World, random_step},
        },
    },
    target::Lease,
};

const STEPS: u32 = 30_000;
const MOST_CONNECTIONS: usize = 8;

/// What a worker gets, in the order it was sent.
#[derive(Debug)]
enum Mail {
    Adopt(Client),
    Sever(TargetKey, u64),
    Resume(TargetKey),
}

#[derive(Debug, Default)]
struct Post(Mutex<VecDeque<Mail>>);

impl Post {
    fn send(&self, mail: Mail) {
        self.0.lock().unwrap().push_back(mail);
    }
}

impl Datapath for Post {
    fn name(&self) -> &'static str {
        "post"
    }
    fn adopt(&self, _: Connection) {}
    fn sever(&self, order: &Sever) {
        self.send(Mail::Sever(order.key, order.keep));
    }
    fn resume(&self, key: TargetKey) {
        self.send(Mail::Resume(key));
    }
}

/// A connection that always has something to send.
#[derive(Debug)]
struct Client {
    lease: Lease,
    node: SocketAddr,
    held: bool,
}

struct Whole {
    world: World,
    switch: Switch,
    post: Arc<Post>,
    slots: watch::Receiver<Slots>,
    clients: Vec<Client>,
    delivered: u32,
    held: u32,
}

impl Whole {
    fn new(rules: &Rules) -> Self {
        let post = Arc::new(Post::default());
        let mut switch = Switch::new(None);
        let slots = switch.add(route(TargetRole::Master, Fallback::None), Arc::<Post>::clone(&post));
        let clients = Vec::new();
        Self { world: World::new(rules), switch, post, slots, clients, delivered: 0, held: 0 }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.world.step(step)?;
        let verdict = self.world.election.verdict();
        self.switch.follow(0, verdict);
        if (self.slots.borrow().len() == 1) == (verdict.way == Way::Open) {
            Ok(())
        } else {
            Err(format!("{} slots are offered while {:?}", self.slots.borrow().len(), verdict.way))
        }
    }

    /// As the listener does it: a lease, a connect, a last look at the gate; the hand-over comes by post.
    fn connect(&mut self) {
        let Some(slot) = self.slots.borrow().first().cloned() else { return };
        let client = Client { lease: slot.lease(), node: slot.addr, held: false };
        if client.lease.passage() == Passage::Free && self.clients.len() < MOST_CONNECTIONS {
            self.post.send(Mail::Adopt(client));
        }
    }

    /// As the relay does it; false: the connection has ended.
    fn send(&mut self, index: usize) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        match client.lease.passage() {
            Passage::Free => {
                client.held = false;
                self.delivered += 1;
                let verdict = self.world.election.verdict();
                let target = verdict.master.as_ref().map(|master| master.addr);
                if target == Some(client.node) && matches!(verdict.way, Way::Open | Way::Established) {
                    return Ok(());
                }
                Err(format!("a byte for {} while {:?} to {target:?}", client.node, verdict.way))
            }
            Passage::Paused => {
                client.held = true;
                self.held += 1;
                Ok(())
            }
            Passage::Shut => {
                self.clients.remove(index);
                Ok(())
            }
        }
    }

    /// The worker reads all its mail; then nothing may be left that should have ended, or gone on.
    fn work(&mut self) -> Result<(), String> {
        let mail = std::mem::take(&mut *self.post.0.lock().unwrap());
        for mail in mail {
            match mail {
                Mail::Adopt(client) => {
                    self.clients.push(client);
                    self.send(self.clients.len() - 1)?;
                }
                Mail::Sever(key, keep) => {
                    self.clients.retain(|client| client.lease.key != key || client.lease.generation == keep);
                }
                Mail::Resume(key) => {
                    for index in (0..self.clients.len()).rev() {
                        if self.clients[index].lease.key == key && self.clients[index].held {
                            self.send(index)?;
                        }
                    }
                }
            }
        }
        for client in &self.clients {
            match client.lease.passage() {
                Passage::Shut => return Err("a connection outlived its target".into()),
                Passage::Free if client.held => return Err("a connection stands still before an open gate".into()),
                Passage::Free | Passage::Paused => {}
            }
        }
        Ok(())
    }

    fn random(&mut self, random: &mut StdRng, weather: Weather, epoch: u8) -> Result<(), String> {
        match random.random_range(0..10) {
            0..=5 => self.step(&random_step(random, weather, epoch)),
            6 => {
                self.connect();
                Ok(())
            }
            7 | 8 => self.send(random.random_range(0..MOST_CONNECTIONS)),
            _ => self.work(),
        }
    }

    fn heals(mut self, master: u8, epoch: u8) -> Result<(u32, u32), String> {
        for step in &cure(master, epoch) {
            self.step(step)?;
        }
        self.world.is_well(master)?;
        self.work()?;
        self.connect();
        self.work()?;
        let before = self.delivered;
        self.send(0)?;
        if self.delivered == before {
            return Err("no byte passes in a healthy world".into());
        }
        Ok((self.delivered, self.held))
    }
}

fn walk(commit: Commit, seed: u64) {
    let rules = Rules { commit, ..rules(true) };
    let mut random = StdRng::seed_from_u64(seed);
    let (mut delivered, mut held) = (0, 0);
    for life in 0..STEPS / 300 {
        let mut whole = Whole::new(&rules);
        whole.step(&Step::Sentinels(0b11111)).and_then(|()| whole.step(&Step::Nodes(0b1111))).expect("a start");
        let mut epoch = 1;
        for number in 0..300 {
            epoch += u8::from(random.random_ratio(1, 40));
            if let Err(broken) = whole.random(&mut random, Weather::at(life * 300 + number), epoch) {
                panic!("seed {seed}, life {life}, step {number}: {broken}\n{:#?}", whole.world.election);
            }
        }
        // With a failover, or with the epochs that there are.
        let healthy = whole.world.epochs().expect("few epochs")[life as usize % 2];
        match whole.heals(epoch % 4, healthy) {
            Ok(sum) => (delivered, held) = (delivered + sum.0, held + sum.1),
            Err(broken) => panic!("seed {seed}, life {life}: {broken}"),
        }
    }
    assert!(delivered > STEPS / 50 && held > STEPS / 500, "too little happened: {delivered} bytes, {held} held");
}

#[test]
fn a_walk_with_commit_majority() {
    walk(Commit::Majority, 11);
}

#[test]
fn a_walk_with_commit_early() {
    walk(Commit::Early, 12);
}
