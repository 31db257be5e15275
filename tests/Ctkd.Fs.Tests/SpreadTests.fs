module Ctkd.Fs.Tests.SpreadTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

let private numbers = Gen.choose (1, 40) >>= fun count -> many count (uniform -50.0 50.0)

[<Fact>]
let ``a quantile that falls on a number is that number of the sorted ones, and lies between them else`` () =
    check
        (Gen.zip numbers (uniform 0.0 1.0))
        (fun (numbers, share) ->
            let sorted = Array.sort numbers

            for i in 0 .. sorted.Length - 1 do
                let exact = if sorted.Length = 1 then 0.0 else float i / float (sorted.Length - 1)
                Expect.near 1e-12 1e-12 sorted[i] (Spread.quantile exact sorted)

            let position = share * float (sorted.Length - 1)
            let value = Spread.quantile share sorted
            Assert.InRange(value, sorted[int (floor position)] - 1e-12, sorted[int (ceil position)] + 1e-12)
        )

[<Fact>]
let ``the quantiles of numbers do not depend on their order, and they rise`` () =
    check
        numbers
        (fun numbers ->
            let spread = (Spread.ofNumbers numbers).Value
            Assert.Equal(Some spread, Spread.ofNumbers (Array.rev numbers))
            let rising = [ spread.Q05; spread.Q25; spread.Median; spread.Q75; spread.Q95 ]
            Assert.Equal<float list>(List.sort rising, rising)
        )

[<Fact>]
let ``the quantiles of 1 to 101 are known, and no numbers have none`` () =
    let known = { Q05 = 6.0; Q25 = 26.0; Median = 51.0; Q75 = 76.0; Q95 = 96.0 }

    Assert.Equal(Some known, Spread.ofNumbers (Array.init 101 (fun i -> float (i + 1))))
    Assert.Equal(None, Spread.ofNumbers [||])
    Expect.refuses "sorted" (fun () -> Spread.quantile 0.5 [||])
    Expect.refuses "share" (fun () -> Spread.quantile 1.5 [| 1.0 |])
