//! The WWW-Authenticate header of a registry: what is read of it makes an address without a space or a line end, so
//! that no header can write another request.
#![no_main]

use hull_image::registry::challenge::{Challenge, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| {
    for challenge in parse(header) {
        if let Challenge::Bearer(source) = challenge {
            let url = source.url(&["repository:x:pull".to_owned()]);
            let query = url.strip_prefix(&source.realm).expect("the realm comes first");
            assert!(query.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        }
    }
});
