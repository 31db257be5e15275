/// The gradients of CTKD: reversed for the temperature's parameters, untouched for the student.
module Ctkd.Fs.Tests.AdversaryTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open Ctkd.Fs.Tests.Policies
open FsCheck.FSharp

let tests =
    testList "Adversary" [
        testProperty "CTKD global reverses the gradient of theta and of nothing else"
        <| forAll
            (Gen.zip3 (Gen.oneof [ Gen.constant 0.0; uniform 0.0 1.0 ]) (uniform -2.0 2.0) moderateLogits)
            (fun (strength, theta, x) ->
                let points =
                    { Shape = []; Values = [| theta |] }
                    :: List.tail (inputs (Tree.ofSeq [ "theta", Plain.number theta ]) x)

                let reversed = Plain.gradients (lossUnder learned.Head strength [ "theta" ]) points

                let plain (xs: Tensor list) =
                    let t = Tensor.addNumber 1.0 (Tensor.scale 20.0 (Tensor.sigmoid xs[0]))
                    Tensor.mean (Loss.kd t xs[1] xs[2])

                let expected = Plain.gradients plain points
                Must.beClose 1e-9 1e-14 (Array.map (fun g -> -strength * g) expected[0]) reversed[0]
                Must.beClose 1e-9 1e-14 expected[1] reversed[1]
                Must.beClose 1e-9 1e-14 expected[2] reversed[2]
            )

        test "one step of the adversary raises the loss where one step of the student lowers it" {
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
                        let value points = Plain.value (fun () -> loss (List.map Plain.ofDense points))
                        let before = value points
                        let gradients = Plain.gradients loss points

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
                        |> Option.iter (fun change -> Expect.isTrue (change < 0.0) $"student: {change}")

                        change (fun i -> i < adversary)
                        |> Option.iter (fun change ->
                            steps <- steps + 1
                            Expect.isTrue (change > 0.0) $"adversary: {change}"
                        )
                    )
                )

            Expect.isTrue (steps > 50) $"the adversary moved in {steps} of 100 cases"
        }

        testProperty "the student sees through the loss of CTKD instance-wise but not through its layers"
        <| forAll
            (Gen.zip (uniform 0.0 1.0) moderateLogits)
            (fun (strength, x) ->
                Tensor.scoped (fun () ->
                    let parameters = fresh learned[1] x.Classes
                    let names = Tree.names parameters
                    let points = inputs parameters x
                    let t = temperatures learned[1] parameters x

                    let held (xs: Tensor list) = Tensor.mean (Loss.kd (Plain.tensor [ x.Rows ] t) xs[0] xs[1])

                    let expected = Plain.gradients held (List.skip names.Length points)

                    let actual =
                        Plain.gradients (lossUnder learned[1] strength names) points |> List.skip names.Length

                    Must.beClose 1e-10 1e-14 expected[0] actual[0]
                    Must.beClose 1e-10 1e-14 expected[1] actual[1]
                )
            )

        testProperty "the layers of CTKD instance-wise receive the reversed gradient"
        <| forAll
            (Gen.zip (Gen.oneof [ Gen.constant 0.0; uniform 0.1 1.0 ]) moderateLogits)
            (fun (strength, x) ->
                Tensor.scoped (fun () ->
                    let parameters = fresh learned[1] x.Classes
                    let points = inputs parameters x

                    let reversed = Plain.gradients (lossUnder learned[1] strength (Tree.names parameters)) points

                    let plain (xs: Tensor list) =
                        let hidden = Tensor.cat 1 [ xs[4]; xs[5] ] |> Tensor.linear xs[0] (Some xs[1]) |> Tensor.relu

                        let output = hidden |> Tensor.linear xs[2] (Some xs[3]) |> Tensor.squeeze 1
                        let t = Tensor.addNumber 1.0 (Tensor.scale 20.0 (Tensor.sigmoid output))
                        Tensor.mean (Loss.kd t xs[4] xs[5])

                    for actual, expected in List.zip reversed (Plain.gradients plain points) |> List.take 4 do
                        Must.beClose 1e-9 1e-14 (Array.map (fun g -> -strength * g) expected) actual
                )
            )
    ]
