namespace Ctkd.Fs.Tests

open Ctkd.Fs
open Xunit
open Xunit.Abstractions
open Ctkd.Fs.Tests.Golden

/// That the golden tests run on what is there, and say what they leave aside.
type GoldenCoverageTests(output: ITestOutputHelper) =
    /// File and name of the rows of a theory.
    let ran (rows: objnull[] seq) = [
        for row in rows do
            if unbox row[1] >= 0 then string row[0], string row[2]
    ]

    let models, cases, trajectories =
        ran GoldenModelTests.Models, ran GoldenLossTests.Cases, ran GoldenTrajectoryTests.Trajectories

    [<Fact>]
    member _.``the formulas give the numbers of the description``() =
        let expected = [| 0.99511418951024289; -0.3004053360985186; 0.5590885156314358 |]
        Assert.Equal<float[]>(expected, units "input" 3)

        Tensor.scoped (fun () ->
            Assert.Equal<int64[]>([| 75L; 19L; 53L; 63L |], Tensor.toInt64s (labels "labels" 4 100))
        )

    [<Fact>]
    member _.``something was found and runs``() =
        Assert.NotEmpty(models @ cases @ trajectories)

        if not elsewhere then
            let missing expected ran = List.except (List.map snd ran) expected

            Assert.Empty(
                missing
                    [
                        "resnet8"
                        "resnet20"
                        "resnet56"
                        "resnet8x4"
                        "wrn_16_2"
                        "vgg8"
                        "MobileNetV2"
                        "ShuffleV1"
                    ]
                    models
            )

            let all = Map.toList GoldenFeatures.implemented |> List.map fst
            Assert.Empty(missing all cases)
            Assert.Empty(missing [ "t1"; "t2"; "t3"; "t4" ] trajectories)

    [<Fact>]
    member _.``no loss case and no trajectory of ours is left aside``() =
        if not elsewhere then
            let found = find ()
            Assert.Equal((found.Cases.Length, found.Trajectories.Length), (cases.Length, trajectories.Length))

    [<Fact>]
    member _.``whatever is left aside is listed``() =
        let found = find ()

        let aside kind (all: Item list) ran = [
            for item in all do
                if not (List.contains (item.File, item.Name) ran) then
                    $"{kind} {item.Name} ({item.File})"
        ]

        let lines =
            aside "model" found.Models models
            @ aside "loss case" found.Cases cases
            @ aside "trajectory" found.Trajectories trajectories
            @ [ for file in found.Others -> $"a file of another form: {file}" ]

        let total = found.Models.Length + found.Cases.Length + found.Trajectories.Length + found.Others.Length
        let running = models.Length + cases.Length + trajectories.Length
        output.WriteLine $"{folder}: {running} run, {lines.Length} are of later versions:"
        List.iter output.WriteLine lines
        Assert.Equal(total, running + lines.Length)
