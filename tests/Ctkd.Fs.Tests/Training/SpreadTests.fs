module Ctkd.Fs.Tests.SpreadTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private numbers = Gen.choose (1, 40) >>= fun count -> many count (uniform -50.0 50.0)

let tests =
    testList "Spread" [
        testProperty "a quantile that falls on a number is that number of the sorted ones, and lies between them else"
        <| forAll
            (Gen.zip numbers (uniform 0.0 1.0))
            (fun (numbers, share) ->
                let sorted = Array.sort numbers

                for i in 0 .. sorted.Length - 1 do
                    let exact = if sorted.Length = 1 then 0.0 else float i / float (sorted.Length - 1)
                    Must.beNear 1e-12 1e-12 sorted[i] (Spread.quantile exact sorted)

                let position = share * float (sorted.Length - 1)
                let value = Spread.quantile share sorted
                Must.lie (sorted[int (floor position)] - 1e-12) (sorted[int (ceil position)] + 1e-12) value
            )

        testProperty "the quantiles of numbers do not depend on their order, and they rise"
        <| forAll
            numbers
            (fun numbers ->
                let spread = (Spread.ofNumbers numbers).Value
                Must.equal (Some spread) (Spread.ofNumbers (Array.rev numbers))
                let rising = [ spread.Q05; spread.Q25; spread.Median; spread.Q75; spread.Q95 ]
                Must.equal (List.sort rising) rising
            )

        test "the quantiles of 1 to 101 are known, and no numbers have none" {
            let known = { Q05 = 6.0; Q25 = 26.0; Median = 51.0; Q75 = 76.0; Q95 = 96.0 }

            Must.equal (Some known) (Spread.ofNumbers (Array.init 101 (fun i -> float (i + 1))))
            Must.equal None (Spread.ofNumbers [||])
            Must.refuse "sorted" (fun () -> Spread.quantile 0.5 [||])
            Must.refuse "share" (fun () -> Spread.quantile 1.5 [| 1.0 |])
        }
    ]
