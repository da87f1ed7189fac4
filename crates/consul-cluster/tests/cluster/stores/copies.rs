//! Copies of disks that have lived on elsewhere, and then meet the cluster that they were made of.

use super::*;

/// The state that the copies of the disks find elsewhere.
#[derive(Clone, Copy, Debug)]
enum Elsewhere {
    /// A Consul of their own.
    EmptyConsul,
    /// A copy of this one.
    CopiedConsul,
}

/// The events here before one of the copies comes.
#[derive(Clone, Copy, Debug)]
enum Here {
    /// Nothing, so that the map of the copies has the higher version.
    Less,
    /// Many changes of the map, so that it has the lower version.
    More,
    /// Consul was wiped, and the nodes have put their map back.
    Wiped,
    /// Consul has lost its data at the moment when the copy comes.
    Wipes,
    /// The node was started again on its own disk since.
    Restarted,
}

impl Cases {
    /// A copy of a disk with its records.
    fn clone_of(&self, disk: &Disk) -> Arc<Disk> {
        let copy = self.copy_of(disk);
        self.world.run(async {
            for shard in 0..8 {
                let records = disk.scan(shard, Range::all(), usize::MAX).await.expect("memory");
                copy.apply(shard, records).await.expect("memory");
            }
        });
        copy
    }

    /// Changes the map often.
    fn change_often(&self, nodes: &mut [Process]) {
        for _ in 0..5 {
            for (number, node) in nodes.iter_mut().enumerate().skip(2) {
                self.kill(node);
                self.world.wait(Duration::from_secs(12));
                *node = self.start(&format!("n{}", number + 1), &node.disk);
                self.wait_until(30, || node.store.holder().is_some());
            }
        }
    }
}

fn play(elsewhere: Elsewhere, here: Here) {
    let case = format!("{elsewhere:?}, {here:?}");
    let (cases, mut nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    let copies: Vec<Arc<Disk>> = nodes.iter().map(|node| cases.clone_of(&node.disk)).collect();
    let backup = cases.world.agent.back_up();
    let other = Cases::new();
    other.world.clock.advance(cases.world.clock.now() - Instant::default());
    if let Elsewhere::CopiedConsul = elsewhere {
        other.world.agent.restore_snapshot(&backup);
    }
    let start = |(number, disk)| other.start(&format!("n{}", number + 1), disk);
    let mut drill: Vec<Process> = copies.iter().enumerate().map(start).collect();
    other.wait_until(120, || drill.iter().all(|it| it.store.holder().is_some()));
    other.fill(&drill[0], "elsewhere");
    for number in 0..40 {
        other.write(&drill[0], &format!("before-{number}"), "elsewhere").expect("a quorum");
    }
    match here {
        Here::More => cases.change_often(&mut nodes),
        _ => other.change_often(&mut drill),
    }
    cases.fill(&nodes[0], "here");
    other.world.wait(Duration::from_secs(10));
    drill.iter().for_each(|process| other.kill(process));
    if let Here::Wiped = here {
        cases.world.agent.restart(Retained::Nothing);
        cases.world.wait(Duration::from_secs(60));
    }
    if let Here::Restarted = here {
        cases.kill(&nodes[1]);
        nodes[1] = cases.start("n2", &nodes[1].disk);
        cases.world.wait(Duration::from_secs(20));
    }
    cases.kill(&nodes[1]);
    if let Here::Wipes = here {
        cases.world.agent.restart(Retained::Nothing);
    }
    let copy = cases.start("n2", &copies[1]);
    for _ in 0..150 {
        cases.world.wait(Duration::from_millis(400));
        let range = Range::all();
        for shard in ["here-1", "before-3"] {
            let read = nodes[0].store.read(shard.as_bytes(), &range, 100, cases.deadline(1));
            let Ok(page) = cases.world.run(read) else { continue };
            let is_other = |it: &consul_replication::record::Record| {
                it.data.as_deref() == Some(&b"elsewhere"[..])
            };
            assert!(!page.records.iter().any(is_other), "{case}: a record of elsewhere");
        }
    }
    let fault = copy.store.fault().unwrap_or_else(|| panic!("{case}: it is not refused"));
    assert!(fault.why.contains("a copy that has lived on elsewhere"), "{case}: {}", fault.why);
    assert!(copy.store.holder().is_none(), "{case}");
    for at in [0, 2] {
        cases.has(&nodes[at], "here");
        cases.has(&nodes[at], "before");
    }
    cases.kill(&copy);
    let again = cases.start("n2", &Disk::new());
    cases.wait_until(120, || again.is_settled(3) && again.store.holder().is_some());
    cases.has(&again, "here");
    cases.has(&again, "before");
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_copy_that_has_lived_on_elsewhere_is_refused() {
    for elsewhere in [Elsewhere::EmptyConsul, Elsewhere::CopiedConsul] {
        for here in [Here::Less, Here::More, Here::Wiped, Here::Wipes, Here::Restarted] {
            play(elsewhere, here);
        }
    }
}
