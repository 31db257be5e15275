/// Plans with every distiller and every policy.
module Ctkd.Fs.Tests.DistillerPlans

open Ctkd.Fs
open Ctkd.Fs.Tests.Plans

let teacher, student = Inputs.threeMaps (3, 4, 6) 4, Inputs.threeMaps (2, 3, 4) 4
let curriculum = Schedule.curriculum 2
let images = 130

let everyPolicy: Policy list =
    let learned = [
        Ctkd.globalPolicy Ctkd.publishedRange curriculum
        Ctkd.instancePolicy Ctkd.publishedRange 8 curriculum
    ]

    let plain = [
        Scheduled.fixedAt 4.0
        Scheduled.by (Schedule.linear 8.0 1.0 2)
        Dtkd.policy 4.0
        Rlkd.policy eager 4.0
    ]

    plain @ learned @ List.map Standardise.policy (plain.Head :: learned)

/// Every distiller, and sums of them, for batches of at most the given size.
let everyDistiller (smallest: int) : Result<Distiller, Error> list =
    let pair = {
        ModelPair.create 8 8 (Array.init images (fun i -> i % 4)) 1 teacher student with
            SmallestBatch = smallest
    }

    let crd = Crd.distiller { Crd.published with Width = 8; Negatives = 20 } pair
    let sum weights parts = parts |> List.map Error.orRaise |> List.zip weights |> Distiller.sum |> Ok

    [
        for name in List.except [ "crd" ] Distillers.names -> Distillers.find name pair |> Result.map snd
        yield crd
        yield sum [ 0.8; 0.9 ] [ crd; Ok Kd.distiller ]
        yield sum [ 1.0; 1000.0 ] [ Dkd.distiller 1.0 2.0 pair; At.distiller pair ]
        yield sum [ 3.0; 1.0 ] [ Ok Kd.distiller; Ok(Distiller.at 4.0 Kd.distiller) ]
    ]

let plan (policy: Policy) (distiller: Distiller) : TrainingPlan = {
    alone with
        Student = student
        CrossEntropy = Schedule.constant 1.0
        LearningRate = Schedule.constant 1e-3
        Distillation =
            Some {
                Model = teacher
                Weights = teacherWeights DType.Float32 teacher
                Policy = policy
                Distillers = [ Schedule.constant 1.0, distiller ]
            }
}

let made (name: string) : Distiller = everyDistiller 2 |> List.map Error.orRaise |> List.find (fun d -> d.Name = name)
