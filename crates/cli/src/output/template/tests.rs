//! Tables of templates with what Go prints for them; every row was checked against Go's own implementation.

use super::{Methods, Template, TemplateError, Value};

fn data() -> Value {
    serde_json::from_str(
        r#"{"Name":"tst","Endpoints":{"docker":{"Host":"unix:///a","Skip":false}},
            "State":{"Status":"running","Pid":42,"Paused":false},"Empty":null,
            "Labels":{"b":"2","a":"1"},"Args":["-c","sleep 1"],"Half":0.5}"#,
    )
    .unwrap()
}

fn render(template: &str) -> Result<String, TemplateError> {
    Template::parse(template)?.render(&data())
}

#[track_caller]
fn check(rows: &[(&str, &str)]) {
    for (template, expected) in rows {
        match render(template) {
            Ok(text) => assert_eq!(text, *expected, "{template}"),
            Err(error) => panic!("{template}: {error}"),
        }
    }
}

#[track_caller]
fn check_errors(rows: &[(&str, &str)]) {
    for (template, expected) in rows {
        let error = render(template).expect_err(template).to_string();
        assert_eq!(error, format!("template parsing error: template: {expected}"), "{template}");
    }
}

#[test]
fn fields_and_constants() {
    check(&[
        ("{{.Name}}", "tst"),
        ("{{.State.Pid}} {{ .State.Status }}", "42 running"),
        ("{{.Endpoints.docker.Host}}", "unix:///a"),
        ("{{.Labels.nope}}", "<no value>"),
        ("{{.Labels}}", "map[a:1 b:2]"),
        ("{{.Args}} {{.Half}} {{.Empty}}", "[-c sleep 1] 0.5 <no value>"),
        (
            "{{true}} {{1.5}} {{0x10}} {{\"a\\tb\"}} {{`raw`}} {{'a'}} {{1e3}} {{1_000}}",
            "true 1.5 16 a\tb raw 97 1000 1000",
        ),
        ("{{(index .Endpoints \"docker\").Host}}", "unix:///a"),
        ("{{$.Name}}{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}", "tst12"),
        ("{{json .Endpoints}}", r#"{"docker":{"Host":"unix:///a","Skip":false}}"#),
        ("{{.Name | json | json}}", r#""\"tst\"""#),
        ("{{json .Empty}}", "null"),
        ("{{.Name | }}", "tst"),
    ]);
}

#[test]
fn functions() {
    check(&[
        ("{{len .Name}} {{len .Args}} {{len .Labels}}", "3 2 2"),
        ("{{\"a\" | upper | printf \"%s-%s\" \"x\"}}", "x-A"),
        ("{{join (split \"a,b,c\" \",\") \"-\"}}", "a-b-c"),
        ("{{title \"hello world\"}} {{pad \"x\" 2 3}}| {{truncate \"hello\" 3}}", "Hello World   x   | hel"),
        ("{{println \"a\" 1 2}}{{print \"a\" \"b\" 1 2 \"c\"}}", "a 1 2\nab1 2c"),
        (
            "{{not true}} {{and 1 0}} {{or 0 \"x\"}} {{lt 1 2}} {{gt \"a\" \"b\"}} {{ne 1 2}} {{le 1 1}} {{ge 2 1}}",
            "false 0 x true false true true true",
        ),
        ("{{eq .Name \"a\" \"tst\"}} {{eq .State.Pid 42}}", "true true"),
        (
            "{{index .Args 1}} {{index .Labels \"a\"}} {{index .Labels \"z\"}} {{index \"abc\" 1}}",
            "sleep 1 1 <no value> 98",
        ),
        ("{{slice \"hello\" 1 3}} {{slice .Args 1}}", "el [sleep 1]"),
        ("{{html \"<a>\"}} {{js \"it's\"}} {{urlquery \"a b&c\"}}", "&lt;a&gt; it\\'s a+b%26c"),
        ("{{upper .Name | lower}}", "tst"),
    ]);
}

#[test]
fn printf() {
    check(&[
        ("{{printf \"%q %5s|%-5s|%v %d\" .Name \"a\" \"b\" 1.5 3}}", "\"tst\"     a|b    |1.5 3"),
        (
            "{{printf \"%d\" \"a\"}} {{printf \"%s\" 3}} {{printf \"%d\"}} {{printf \"x\" 1}}",
            "%!d(string=a) %!s(int=3) %!d(MISSING) x%!(EXTRA int=1)",
        ),
        (
            "{{printf \"%v %+v %T %x %5d|%-5d|%05d %t %c %.2f %%\" \"a\" \"b\" \"c\" \"hi\" 3 3 3 true 65 1.234}}",
            "a b string 6869     3|3    |00003 true A 1.23 %",
        ),
        ("{{printf \"%s %.2s %+d %x\" .Args \"abc\" 5 255}}", "[-c sleep 1] ab +5 ff"),
    ]);
}

#[test]
fn control() {
    check(&[
        ("{{if eq .Name \"tst\"}}yes{{else}}no{{end}}", "yes"),
        ("{{if false}}a{{else if .Empty}}b{{else}}c{{end}}", "c"),
        ("{{if and .Name (eq .Name \"tst\")}}Y{{else if true}}Z{{end}}", "Y"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range .Args}}[{{.}}]{{end}}", "[-c][sleep 1]"),
        ("{{range $i, $e := split \"a,b\" \",\"}}{{$i}}{{$e}}{{else}}none{{end}}", "0a1b"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range split \"a,b,c\" \",\"}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range split \"a,b,c\" \",\"}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{with .State}}{{.Status}} {{$.Name}}{{end}}{{with .Empty}}x{{else}}-{{end}}", "running tst-"),
        ("{{with $x := .State}}{{$x.Pid}}{{end}}", "42"),
        ("{{/* c */ -}}  x", "x"),
        ("abc {{ \"x\" -}}   y {{- \"z\" }}", "abc xyz"),
        ("a\n{{- if true }}\nb\n{{- end }}\n", "a\nb\n"),
        ("no action", "no action"),
        ("", ""),
    ]);
}

#[test]
fn parse_errors() {
    check_errors(&[
        ("{{foo}}", ":1: function \"foo\" not defined"),
        ("{{.Name", ":1: unclosed action"),
        ("{{\"a\"", ":1: unclosed action"),
        ("{{\"a}}", ":1: unterminated quoted string"),
        ("{{if}}", ":1: missing value for if"),
        ("{{range}}", ":1: missing value for range"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        ("a\n{{if .Name}}x", ":2: unexpected EOF"),
        ("{{$x := 1}}{{$x}}{{$y}}", ":1: undefined variable \"$y\""),
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{template \"x\"}}", ":1: {{template}} is not supported by Hull's templates"),
        ("{{(.Name}}", ":1: unclosed left paren"),
        ("{{1 | 2}}", ":1: non executable command in pipeline stage 2"),
    ]);
}

#[test]
fn execution_errors() {
    check_errors(&[
        ("{{.Foo}}", ":1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
        ("{{.Name.Foo}}", ":1:7: executing \"\" at <.Name.Foo>: can't evaluate field Foo in type string"),
        ("{{eq 1 1.0}}", ":1:2: executing \"\" at <eq 1 1.0>: error calling eq: incompatible types for comparison"),
        ("{{range .Name}}x{{end}}", ":1:8: executing \"\" at <.Name>: range can't iterate over tst"),
        (
            "{{ index (split \"a,b\" \",\") 5}}",
            ":1:3: executing \"\" at <index (split \"a,b\" \",\") 5>: error calling index: index out of range: 5",
        ),
        ("{{true}} {{nil}}", ":1:11: executing \"\" at <nil>: nil is not a command"),
        ("{{lower 5}}", ":1:8: executing \"\" at <5>: expected string; found 5"),
        ("{{json .Name .Name}}", ":1:2: executing \"\" at <json>: wrong number of args for json: want 1 got 2"),
        ("{{.Name 1}}", ":1:2: executing \"\" at <.Name>: Name has arguments but cannot be invoked as function"),
        ("{{len 3}}", ":1:2: executing \"\" at <len 3>: error calling len: len of type int"),
        ("{{1 2}}", ":1:2: executing \"\" at <1>: can't give argument to non-function 1"),
        ("x\n {{.Foo}}", ":2:3: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
    ]);
}

struct Labels;

impl Methods for Labels {
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("Label", [Value::Text(label)]) => Some(Ok(format!("<{label}>").into())),
            ("Label", _) => Some(Err("wants one name".to_owned())),
            _ => None,
        }
    }
}

#[test]
fn methods_take_arguments() {
    let render = |text| Template::parse(text).unwrap().render_with(&data(), &Labels);
    assert_eq!(render("{{.Label \"x\"}} {{\"y\" | .Label}}").unwrap(), "<x> <y>");
    assert!(render("{{.Label}}").unwrap_err().to_string().contains("error calling Label: wants one name"));
    assert!(render("{{.Other \"x\"}}").unwrap_err().to_string().contains("no entry for key \"Other\""));
}
