//! state.json and exec.json, as an older Hull or a damaged disk may have left them: commands that look say what is wrong
//! with them. The input is the two files, with a NUL between.
#![no_main]

use std::fs;

use hull_runtime::container::Containers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("box");
    fs::create_dir(&folder).expect("a folder");
    for (name, content) in ["state.json", "exec.json"].into_iter().zip(&mut parts) {
        fs::write(folder.join(name), content).expect("a file");
    }
    let containers = Containers::new(root.path());
    let looked = containers.state("box").map(|_| ()).and_then(|()| containers.process("box").map(|_| ()));
    if let Err(error) = looked {
        assert!(!error.to_string().is_empty());
    }
});
