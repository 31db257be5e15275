module Ctkd.Fs.Tests.SaturationTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private range = Ctkd.publishedRange
let private at (s: float) : float = range.Start + range.Scale * s

let tests =
    testList "Saturation" [
        testProperty "the slope is the derivative of the sigmoid, by central differences"
        <| forAll
            (uniform -6.0 6.0)
            (fun x ->
                let sigmoid x = 1.0 / (1.0 + exp -x)
                let numeric = (sigmoid (x + 1e-5) - sigmoid (x - 1e-5)) / 2e-5
                Must.beNear 1e-7 1e-9 numeric (Saturation.slope range [| at (sigmoid x) |])
            )

        testProperty "the slope is the mean over the images, a quarter at most"
        <| forAll
            (Gen.choose (1, 20) >>= fun count -> many count (uniform 0.0 1.0))
            (fun shares ->
                let slope = Saturation.slope range (Array.map at shares)
                Must.beNear 1e-12 1e-13 (shares |> Array.averageBy (fun s -> s * (1.0 - s))) slope
                Must.lie 0.0 0.25 slope
            )

        testProperty "a policy is warned of exactly where its slope is below the limit"
        <| forAll
            (uniform 0.0 0.01)
            (fun s ->
                for share in [ s; 1.0 - s ] do
                    let isFlat = s * (1.0 - s) < Saturation.limit
                    Must.equal isFlat ((Saturation.warning range [| at share |]).IsSome)
            )

        test "the warning names the bound, what it means and what to do" {
            let said shares = (Saturation.warning range (Array.map at shares)).Value
            Must.contain "at the upper bound 21" (said [| 0.9999 |])
            Must.contain "raise --t-scale" (said [| 0.9999 |])
            Must.contain "at the lower bound 1:" (said [| 1e-5; 2e-5 |])
            Must.contain "lower --t-start" (said [| 1e-5; 2e-5 |])
            let both = said [| 1e-5; 0.99999; 1.0; 1.0 |]
            Must.contain "at the bounds 1 and 21 (75 % of the images at the upper one)" both

            for text in [ said [| 1.0 |]; both ] do
                Must.contain "hardly learns" text
                Must.contain "shorter curriculum" text
        }

        test "at its start CTKD's policy is far from saturated, and no temperatures are no warning" {
            Must.equal None (Saturation.warning range [| 15.6212 |])
            Must.beNear 1e-4 0.0 0.1966 (Saturation.slope range [| 15.6212 |])
            Must.equal None (Saturation.warning range [||])
        }
    ]
