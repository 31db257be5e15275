/// One test for each of many cases.
module Ctkd.Fs.Tests.Cases

open System
open Expecto

/// Removes characters that would break a list of names.
let private printable (text: string) : string =
    text |> String.collect (fun c -> if c < ' ' || c > '~' then $"\\u%04x{int c}" else string c)

/// A list of tests, each named by its case as F# prints it.
let testEach (name: string) (cases: 'T list) (body: 'T -> unit) : Test =
    testList name [ for case in cases -> testCase (printable $"%A{case}") (fun () -> body case) ]
