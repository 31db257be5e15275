module Ctkd.Fs.Tests.Generators

open Ctkd.Fs
open FsCheck.FSharp
open Xunit

[<Fact>]
let ``the nearest name to a candidate is itself`` () =
    let names = [ "resnet8"; "resnet20"; "resnet56" ]

    Prop.forAll (Arb.fromGen (Gen.elements names)) (fun name -> List.head (Error.nearest names name) = name)
    |> FsCheck.Check.QuickThrowOnFailure
