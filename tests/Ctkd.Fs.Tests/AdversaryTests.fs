/// The gradients of CTKD: reversed for the temperature's parameters, untouched for the student.
module Ctkd.Fs.Tests.AdversaryTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open Ctkd.Fs.Tests.Policies
open FsCheck.FSharp
open Xunit

[<Fact>]
let ``CTKD global reverses the gradient of theta and of nothing else`` () =
    check
        (Gen.zip3 (Gen.oneof [ Gen.constant 0.0; uniform 0.0 1.0 ]) (uniform -2.0 2.0) moderateLogits)
        (fun (strength, theta, x) ->
            let points =
                { Shape = []; Values = [| theta |] }
                :: List.tail (inputs (Tree.ofSeq [ "theta", Expect.number theta ]) x)

            let reversed = Expect.gradients (lossUnder learned.Head strength [ "theta" ]) points

            let plain (xs: Tensor list) =
                let t = Tensor.addNumber 1.0 (Tensor.scale 20.0 (Tensor.sigmoid xs[0]))
                Tensor.mean (Loss.kd t xs[1] xs[2])

            let expected = Expect.gradients plain points
            Expect.close 1e-9 1e-14 (Array.map (fun g -> -strength * g) expected[0]) reversed[0]
            Expect.close 1e-9 1e-14 expected[1] reversed[1]
            Expect.close 1e-9 1e-14 expected[2] reversed[2]
        )

[<Fact>]
let ``one step of the adversary raises the loss where one step of the student lowers it`` () =
    let mutable steps = 0

    let moved (rate: float) (x: Dense) (gradient: float[]) = {
        x with
            Values = Array.map2 (fun v g -> v - rate * g) x.Values gradient
    }

    // Both move against their gradient, as one optimiser moves them.
    check
        (Gen.zip3 (uniform 0.2 1.0) (Gen.elements learned) (logitsOf [ 1.0; 5.0 ]))
        (fun (strength, policy, x) ->
            Tensor.scoped (fun () ->
                let parameters = fresh policy x.Classes
                let loss = lossUnder policy strength (Tree.names parameters)
                let points = inputs parameters x
                let value points = Expect.value (fun () -> loss (List.map Expect.ofDense points))
                let before = value points
                let gradients = Expect.gradients loss points

                /// The change of the loss by a small step, unless a turning point is too near for its sign to count.
                let change (moves: int -> bool) =
                    let gradients =
                        gradients |> List.mapi (fun i g -> if moves i then g else Array.zeroCreate g.Length)

                    let length = gradients |> List.sumBy (Array.sumBy (fun g -> g * g)) |> sqrt

                    if length < 1e-4 * before then
                        None
                    else
                        Some(value (List.map2 (moved (1e-6 / length)) points gradients) - before)

                let student, adversary = points.Length - 1, Tree.count parameters

                change ((=) student)
                |> Option.iter (fun change -> Assert.True(change < 0.0, $"student: {change}"))

                change (fun i -> i < adversary)
                |> Option.iter (fun change ->
                    steps <- steps + 1
                    Assert.True(change > 0.0, $"adversary: {change}")
                )
            )
        )

    Assert.True(steps > 50, $"the adversary moved in {steps} of 100 cases")

[<Fact>]
let ``the student sees through the loss of CTKD instance-wise but not through its layers`` () =
    check
        (Gen.zip (uniform 0.0 1.0) moderateLogits)
        (fun (strength, x) ->
            Tensor.scoped (fun () ->
                let parameters = fresh learned[1] x.Classes
                let names = Tree.names parameters
                let points = inputs parameters x
                let t = temperatures learned[1] parameters x
                let held (xs: Tensor list) = Tensor.mean (Loss.kd (Expect.tensor [ x.Rows ] t) xs[0] xs[1])
                let expected = Expect.gradients held (List.skip names.Length points)

                let actual =
                    Expect.gradients (lossUnder learned[1] strength names) points |> List.skip names.Length

                Expect.close 1e-10 1e-14 expected[0] actual[0]
                Expect.close 1e-10 1e-14 expected[1] actual[1]
            )
        )

[<Fact>]
let ``the layers of CTKD instance-wise receive the reversed gradient`` () =
    check
        (Gen.zip (Gen.oneof [ Gen.constant 0.0; uniform 0.1 1.0 ]) moderateLogits)
        (fun (strength, x) ->
            Tensor.scoped (fun () ->
                let parameters = fresh learned[1] x.Classes
                let points = inputs parameters x

                let reversed =
                    Expect.gradients (lossUnder learned[1] strength (Tree.names parameters)) points

                let plain (xs: Tensor list) =
                    let hidden =
                        Tensor.cat 1 [ xs[4]; xs[5] ] |> Tensor.linear xs[0] (Some xs[1]) |> Tensor.relu

                    let output = hidden |> Tensor.linear xs[2] (Some xs[3]) |> Tensor.squeeze 1
                    let t = Tensor.addNumber 1.0 (Tensor.scale 20.0 (Tensor.sigmoid output))
                    Tensor.mean (Loss.kd t xs[4] xs[5])

                for actual, expected in List.zip reversed (Expect.gradients plain points) |> List.take 4 do
                    Expect.close 1e-9 1e-14 (Array.map (fun g -> -strength * g) expected) actual
            )
        )
