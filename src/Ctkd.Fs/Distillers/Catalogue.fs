namespace Ctkd.Fs

/// The distillers by name, and how they combine. Any of them works under any temperature policy.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Distiller =

    /// Vanilla KD: `Kd`.
    let kd: Distiller = Kd.distiller

    /// The distiller at a fixed temperature of its own, whatever the course's policy decides: DTKD adds
    /// KD(tau) so.
    let at (t: float) (distiller: Distiller) : Distiller =
        if not (System.Double.IsFinite t && t > 0.0) then
            invalidArg (nameof t) $"the temperature must be finite and > 0, got {string t}."

        let softened (lesson: Lesson) =
            let teacher, student = lesson.Teacher.Logits, lesson.Student.Logits
            let t = Tensor.scalar (Tensor.dtype student) (Tensor.device student) t
            { lesson with Softened = Temperature.shared teacher student t }

        {
            distiller with
                Name = distiller.Name + "@" + string t
                Loss = fun state lesson -> distiller.Loss state (softened lesson)
        }

    /// The distiller with one weight for all instances of a batch, the mean of those that the policy decides: what the released
    /// RLKD makes of DKD, whose [batch] divergences it multiplies with T^2 as [batch, 1].
    let meanWeight (distiller: Distiller) : Distiller =
        let even (lesson: Lesson) = { lesson with Softened.Weight = Tensor.mean lesson.Softened.Weight }

        { distiller with Loss = fun state lesson -> distiller.Loss state (even lesson) }

    /// The weighted sum of distillers as one: CRD + KD, DKD + AT, DTKD's alpha L + beta KD(tau).
    let sum (parts: (float * Distiller) list) : Distiller =
        let distillers = List.map snd parts
        let names = distillers |> List.map _.Name

        if parts.IsEmpty || List.distinct names <> names then
            invalidArg (nameof parts) $"a sum needs distillers of different names, got %A{names}."

        {
            Name = String.concat "+" names
            LooksAtMaps = distillers |> List.exists _.LooksAtMaps
            Fewest = distillers |> List.map _.Fewest |> List.max
            Declares = Distillation.declarations distillers
            Memory = Distillation.memory distillers
            Loss =
                fun state lesson ->
                    parts
                    |> List.map (fun (weight, d) -> Tensor.scale weight (Distillation.loss d state lesson))
                    |> List.reduce Tensor.add
            Settle =
                fun state lesson ->
                    for d in distillers do
                        Distillation.settle d state lesson
        }

    /// Every distiller with the weight and the settings that its authors published for CIFAR-100 (for DKD
    /// those of resnet56 to resnet20), made for a pair of models.
    let published: (string * float * (Pairing -> Result<Distiller, Error>)) list = [
        "kd", 0.9, (fun _ -> Ok kd)
        "dkd", 1.0, Dkd.distiller 1.0 2.0
        "pkt", 30000.0, (fun _ -> Ok Pkt.distiller)
        "sp", 3000.0, Sp.distiller
        "vid", 1.0, Vid.distiller
        "crd", 0.8, Crd.distiller Crd.published
        "srrl", 1.0, Srrl.distiller
        "rkd", 1.0, Rkd.distiller 25.0 50.0
        "fitnet", 100.0, FitNet.distiller 2
        "at", 1000.0, At.distiller
    ]

    /// Their names.
    let names: string list = published |> List.map (fun (name, _, _) -> name)

    /// The published distiller of that name with its weight, for a pair of models.
    let find (name: string) (pairing: Pairing) : Result<float * Distiller, Error> =
        match published |> List.tryFind (fun (known, _, _) -> known = name) with
        | Some(_, weight, create) -> create pairing |> Result.map (fun distiller -> weight, distiller)
        | None -> Result.Error(Error.unknown "distiller" names name)
