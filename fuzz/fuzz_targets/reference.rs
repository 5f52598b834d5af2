//! A name of an image: one that is read is read again the same, from its full and from its short form.
#![no_main]

use hull_oci::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let reference = match Reference::parse(text) {
        Ok(reference) => reference,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for form in [reference.to_string(), reference.familiar()] {
        let again = Reference::parse(&form).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(again, reference, "{form}");
    }
    assert!(!reference.repository.contains("..") || !reference.repository.contains("../"), "{reference}");
});
