module Ctkd.Fs.Tests.TwoProcessesTests

open System.Xml.Linq
open Expecto

let private part: TwoProcesses.Part = { Name = "runs"; Variables = [] }

let tests =
    testList "TwoProcesses" [
        test "only the whole suite runs in two processes, and what selects or lists tests in one" {
            for whole in [ ""; "--no-spinner"; "--no-spinner --colours 0 --junit-summary a.xml" ] do
                Must.hold (TwoProcesses.isMeant (whole.Split(' ') |> List.ofArray |> List.except [ "" ]))

            for other in
                [
                    "Quickstart"
                    "--list-tests"
                    "--filter a"
                    "--part runs"
                    "--peer"
                    "--no-spinner --run a"
                    "--junit-summary"
                ] do
                Must.notHold (TwoProcesses.isMeant (other.Split(' ') |> List.ofArray))
        }

        test "a part is given the options of all, and a file of results of its own" {
            Must.equal
                [ "--part"; "runs"; "--junit-summary"; "a.xml.runs"; "--colours"; "0"; "--no-spinner" ]
                (TwoProcesses.argumentsOf part [ "--no-spinner"; "--junit-summary"; "a.xml"; "--colours"; "0" ])
        }

        test "the results of both parts are one document, and the counts are those of a runner's last line" {
            let suite (name: string) =
                XDocument.Parse $"<testsuites><testsuite name='x'><testcase name='{name}'/></testsuite></testsuites>"

            let all = TwoProcesses.merged [ suite "a"; suite "b" ]

            Must.equal [ "a"; "b" ] [
                for case in all.Descendants(XName.Get "testcase") -> (nonNull (case.Attribute(XName.Get "name"))).Value
            ]

            Must.equal (Some(12, 3)) (TwoProcesses.counts "\u001b[0m12 passed, 3 failed   ")
            Must.equal None (TwoProcesses.counts "the table says: 12 passed, 3 failed")
            Must.equal None (TwoProcesses.counts "1,825 tests run - 1,822 passed, 0 ignored, 2 failed")
        }
    ]
