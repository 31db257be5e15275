/// Advantages, returns and their scaling (F14).
module Ctkd.Fs.Tests.AdvantageTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference
open FsCheck.FSharp

let tests =
    testList "Advantage" [
        testProperty "advantages and returns equal the recursions"
        <| forAll
            (Gen.zip Inputs.seeds (Gen.choose (1, 70)))
            (fun (seed, n) ->
                let numbers offset = Rng.ofSeed (seed + offset) |> Rng.normals n
                let rewards, values, beyond = numbers 0, numbers 1, 0.37
                let next = Array.append (Array.tail values) [| beyond |]
                let deltas = Array.init n (fun t -> rewards[t] + 0.99 * next[t] - values[t])

                let recursion share start xs =
                    Array.scanBack (fun x sum -> x + share * sum) xs start |> Array.truncate n

                Tensor.scoped (fun () ->
                    let last = row [| beyond |]

                    Advantage.generalised 0.99 0.95 (row rewards) (row values) last
                    |> Tensor.toFloats
                    |> Must.beClose 1e-10 1e-10 (recursion (0.99 * 0.95) 0.0 deltas)

                    Advantage.returns 0.99 (row rewards) last
                    |> Tensor.toFloats
                    |> Must.beClose 1e-10 1e-10 (recursion 0.99 beyond rewards)
                )
            )

        test "advantages of a thousand instances are finite in float32" {
            Tensor.scoped (fun () ->
                let ones = Tensor.full DType.Float32 Device.Cpu 1.0 [| 2000L |]
                let sums = Advantage.discounted (0.99 * 0.95) ones |> Tensor.toFloats
                Must.beNear 1e-4 0.0 (1.0 / (1.0 - 0.99 * 0.95)) sums[0]

                for s in sums do
                    Must.hold (System.Double.IsFinite s)
            )
        }

        test "constant advantages have no z-score and keep their sign under the running scale" {
            Tensor.scoped (fun () ->
                let constant = row [| -2.0; -2.0; -2.0 |]

                for a in Tensor.toFloats (Advantage.zScored constant) do
                    Must.beNear 0.0 1e-6 0.0 a

                let running, updates = Plain.number 0.0, Plain.number 0.0
                let first = Advantage.scaled running updates constant |> Tensor.toFloats

                for a in first do
                    Must.beNear 1e-6 0.0 -1.0 a

                let second = Advantage.scaled running (Plain.number 1.0) (row [| 4.0; 4.0; 4.0 |]) |> Tensor.toFloats
                // The mean square of both: (4 * 0.99 + 16) / 1.99.
                for a in second do
                    Must.beNear 1e-6 0.0 (4.0 / sqrt (19.96 / 1.99)) a
            )
        }

        test "discounted sums, generalised advantages, returns and their scaling" {
            reading (fun expected ->
                let x = Plain.tensor [ 4 ] (expected "discount.x")
                exactly (expected "discount.out") (Advantage.discounted 0.9 x)
                let values = vector 8 (fun i -> 0.1 * cos (0.4 * i))
                let rewards = Corrector.sparse 8 (Plain.number 0.25)
                let beyond = Plain.tensor [ 1 ] [| 0.07 |]
                let advantages = Advantage.generalised 0.99 0.95 rewards values beyond
                // The reference kept these in float32.
                let single tolerance key actual =
                    Must.beClose tolerance tolerance (expected key) (Tensor.toFloats actual)

                single 1e-7 "gae.adv" advantages
                single 1e-7 "gae.ret" (Advantage.returns 0.99 rewards beyond)
                single 1e-6 "gae.adv_norm" (Advantage.zScored advantages)
            )
        }
    ]
