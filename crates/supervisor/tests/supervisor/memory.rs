//! What an idle supervisor costs.

use std::fs;

use crate::bed::Bed;

/// Proportional set size in kB.
fn pss(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn idle_supervisors_are_small_also_after_a_burst_of_output() {
    let beds: Vec<Bed> = (0..50)
        .map(|number| {
            let burst = if number % 2 == 0 { "seq 1 20000;" } else { "" };
            Bed::start("", &format!("{burst} exec sleep 1000"))
        })
        .collect();
    // Memory is given back after a quiet second.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let sizes: Vec<u64> = beds.iter().map(|bed| pss(bed.live().supervisor_pid)).collect();
    let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
    println!("pss of {} supervisors: mean {mean} kB, most {} kB", sizes.len(), sizes.iter().max().unwrap());
    for bed in &beds {
        bed.client().signal(0, 9).unwrap();
    }
    for bed in &beds {
        bed.cleaned();
    }
    // The bound for a release build of hull is 160 kB; this is an unoptimised test program.
    assert!(mean <= 400, "{mean} kB");
}
