/// Courses with every distiller and every policy.
module Ctkd.Fs.Tests.DistillerCourses

open Ctkd.Fs
open Ctkd.Fs.Tests.Courses

let teacher, student = Lessons.threeMaps (3, 4, 6) 4, Lessons.threeMaps (2, 3, 4) 4
let curriculum = Schedule.curriculum 2
let images = 130

let everyPolicy: Policy list =
    let learned = [
        Temperature.ctkdGlobal Temperature.published curriculum
        Temperature.ctkdInstance Temperature.published 8 curriculum
    ]

    let plain = [
        Temperature.fixedAt 4.0
        Temperature.scheduled (Schedule.linear 8.0 1.0 2)
        Temperature.dtkd 4.0
        Rlkd.policy eager 4.0
    ]

    plain @ learned @ List.map Temperature.standardised (plain.Head :: learned)

/// Every distiller, and sums of them, for batches of at most the given size.
let everyDistiller (smallest: int) : Result<Distiller, Error> list =
    let pairing = {
        Pairing.create 8 8 (Array.init images (fun i -> i % 4)) 1 teacher student with
            SmallestBatch = smallest
    }

    let crd = Crd.distiller { Crd.published with Width = 8; Negatives = 20 } pairing
    let sum weights parts = parts |> List.map Error.orRaise |> List.zip weights |> Distiller.sum |> Ok

    [
        for name in List.except [ "crd" ] Distiller.names -> Distiller.find name pairing |> Result.map snd
        yield crd
        yield sum [ 0.8; 0.9 ] [ crd; Ok Distiller.kd ]
        yield sum [ 1.0; 1000.0 ] [ Dkd.distiller 1.0 2.0 pairing; At.distiller pairing ]
        yield sum [ 3.0; 1.0 ] [ Ok Distiller.kd; Ok(Distiller.at 4.0 Distiller.kd) ]
    ]

let course (policy: Policy) (distiller: Distiller) : Course = {
    alone with
        Student = student
        CrossEntropy = Schedule.constant 1.0
        LearningRate = Schedule.constant 1e-3
        Teaching =
            Some {
                Model = teacher
                Weights = teacherWeights DType.Float32 teacher
                Policy = policy
                Distillers = [ Schedule.constant 1.0, distiller ]
            }
}

let made (name: string) : Distiller =
    everyDistiller 2 |> List.map Error.orRaise |> List.find (fun d -> d.Name = name)
