using TorchSharp;
using static Ctkd.Fs.CSharp.Check;

namespace Ctkd.Fs.CSharp;

/// <summary>The library as a C# program uses it. Each method is run as a test.</summary>
public static class Facade
{
    public static void A_teacher_and_a_student_train_two_epochs_each() => InFolder(folder =>
    {
        var epochs = new List<int>();
        var teacher = Training.Start(
            new TrainingOptions { Student = "resnet14", PerClass = 20, Epochs = 2 },
            Path.Combine(folder, "teacher"), m => epochs.Add(m.Epoch), CancellationToken.None);

        var student = Training.Start(
            new TrainingOptions { Student = "resnet8", TeacherWeights = teacher.Folder, PerClass = 20, Epochs = 2, Policy = "ctkd-global" },
            Path.Combine(folder, "student"));

        Equal([1, 2], epochs);
        That(student.Epochs.Count() == 2);
        That(student.Epochs.Last().T?.Value is >= 1.0 and <= 21.0);
        That(File.Exists(student.Checkpoint));
    });

    public static void A_cancelled_run_goes_on_where_it_stopped() => InFolder(folder =>
    {
        using var stop = new CancellationTokenSource();
        var options = new TrainingOptions { Student = "resnet8", PerClass = 20, Epochs = 3 };
        var path = Path.Combine(folder, "run");
        var first = Training.Start(options, path, _ => stop.Cancel(), stop.Token);
        That(first.Ending.IsInterrupted);

        var second = Training.Resume(path, null, CancellationToken.None);
        That(second.Ending.IsFinished);
        Equal([1, 2, 3], second.Epochs.Select(m => m.Epoch));
    });

    public static void Methods_under_a_policy_are_two_options() => InFolder(folder =>
    {
        var teacher = Training.Start(
            new TrainingOptions { Student = "resnet8", PerClass = 20, Epochs = 1 },
            Path.Combine(folder, "teacher"));

        var student = Training.Start(
            new TrainingOptions
            {
                Student = "resnet8", TeacherWeights = teacher.Folder, PerClass = 20, Epochs = 1,
                Methods = ["kd", "at"], Policy = "dtkd", Standardise = true,
            },
            Path.Combine(folder, "student"));

        That(student.Settings.Methods["kd"] == 3.0);
        That(student.Settings.Methods["at"] == 1000.0);
        That(student.Settings.Standardise);
    });

    public static void A_teacher_a_policy_a_loss_and_images_of_ones_own_are_values() => InFolder(folder =>
    {
        var images = Enumerable.Range(0, 60).Select(i => Enumerable.Repeat((byte)(i % 2 == 0 ? 40 + i : 200 - i), 64).ToArray());
        var data = Values.Images("levels", 8, 8, [.. images], [.. Enumerable.Range(0, 60).Select(i => i % 2)]);
        using var head = torch.nn.Linear(3, 2);
        var teacher = Values.Teacher("mean", 2, x => head.forward(x.mean([2L, 3L])));
        var certain = Policies.Own("certain", (t, s) => torch.nn.functional.softmax(t, 1).amax([1L]) * 4.0 + 2.0);
        var logits = Methods.Own("logits", input => (input.Student.Logits - input.Teacher.Logits).square().mean());
        TrainingOptions Options() => new TrainingOptions { Student = "resnet8", Epochs = 2, Batch = 16 }
            .Use(data).Use(teacher).Use(certain).Use(0.9, Methods.Kd).Use(0.1, logits);

        var path = Path.Combine(folder, "run");
        using var stop = new CancellationTokenSource();
        That(Training.Start(Options(), path, _ => stop.Cancel(), stop.Token).Ending.IsInterrupted);
        var summary = Training.Resume(Options(), path, null, CancellationToken.None);
        Equal([1, 2], summary.Epochs.Select(m => m.Epoch));
        That(summary.Epochs.Last().T?.Value is >= 4.0 and <= 6.0);
        That(summary.Epochs.Last().Terms.ContainsKey("logits"));
        That(Fails(() => Training.Resume(path, null, CancellationToken.None)).Message.Contains("policy 'certain'"));
    });

    public static void A_module_of_TorchSharp_is_a_student_and_another_its_teacher() => InFolder(folder =>
    {
        static torch.nn.Module<torch.Tensor, torch.Tensor> Make() =>
            torch.nn.Sequential(("flat", torch.nn.Flatten()), ("head", torch.nn.Linear(192, 10)));
        using var trained = Make();
        var options = new TrainingOptions { Epochs = 1, Batch = 16, PerClass = 5 }
            .Use(Values.Student("linear", 10, Make)).Use(Values.Teacher("trained", 10, trained));
        var summary = Training.Start(options, Path.Combine(folder, "run"), null, CancellationToken.None);
        Equal("linear", summary.Settings.Student);
        Equal("trained", summary.Settings.Teacher);
    });

    public static void A_recipe_gives_what_the_options_leave_open()
    {
        var plain = new TrainingOptions { Recipe = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed" }.ToSettings();
        That(plain.DkdBeta == 8.0);
        That(plain.Epochs == 240);

        var changed = new TrainingOptions
        {
            Recipe = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed", Batch = 64, Epochs = 24,
            Methods = ["kd", "dkd"], MethodWeights = [0.5, 2.0],
        }.ToSettings();

        Equal([15, 18, 21], changed.Milestones);
        That(changed.Methods["kd"] == 0.5);
        That(changed.LearningRate == 0.01);
        That(Fails(() => new TrainingOptions { Recipe = "dkd" }.ToSettings()).Message.Contains("unknown recipe 'dkd'"));
    }

    public static void Any_setting_is_set_by_its_name()
    {
        var options = new TrainingOptions { Policy = "rlkd" };
        options.Set("rlkd.warmUp", "6");
        options.Set("rlkd.ranks", "0.1,0.8");
        options.Set("perClass", "20");
        That(options.PerClass == 20);
        var settings = options.ToSettings();
        That(settings.Rlkd.WarmUp == 6);
        Equal([0.1, 0.8], settings.Rlkd.Ranks);

        That(Fails(() => options.Set("rlkd.warmup", "6")).Message.Contains("warmUp"));
        That(Fails(() => options.Set("rlkd.warmUp", "six")).Message.Contains("'six'"));
        That(Policies.Rlkd(1, 1, 4.0).Name == "rlkd");
    }

    public static void Options_of_training_are_properties()
    {
        var options = new TrainingOptions
        {
            Optimizer = "adamw", LrSchedule = "cosine", LrWarmUp = 2, LabelSmoothing = 0.1,
            Mixup = 0.2, ClipGradients = 1.0, Ema = 0.99, Patience = 3, ValSplit = 0.1, SplitSeed = 7,
        };

        var s = options.ToSettings();
        That(s.LearningRate == 1e-3 && s.WeightDecay == 0.01);
        That(s.LrWarmUp == 2 && s.Patience == 3);
        That(s.ValSplit == 0.1 && s.SplitSeed == 7);
        Equal([0.1, 0.2, 1.0, 0.99], [s.LabelSmoothing, s.Mixup, s.ClipGradients, s.Ema]);
        That(options.Optimizer == "adamw" && options.LrSchedule == "cosine");
        That(Fails(() => options.Optimizer = "adm").Message.Contains("adamw"));
    }

    public static void A_loss_and_its_gradient_are_two_lines()
    {
        using var teacher = torch.tensor(new[] { 2.0, 1.0, 0.0 }, [1, 3]);
        using var student = torch.tensor(new[] { 0.0, 1.0, 2.0 }, [1, 3]);
        student.requires_grad = true;

        using var loss = Losses.Kd(4.0, teacher, student);
        using var gradient = Losses.Gradients(loss, student)[0];

        That(loss.data<double>().ToArray()[0] > 0.0);
        That(Math.Abs(gradient.data<double>().ToArray().Sum()) < 1e-12);
        That(gradient.data<double>().ToArray()[0] < 0.0);
    }

    public static void Schedules_answer_At() => That(Math.Abs(Schedules.Cosine(0.0, 1.0, 10).At(5) - 0.5) < 1e-12);

    public static void A_mistake_says_what_and_what_to_do() => InFolder(folder =>
    {
        var error = Fails(() => Training.Start(new TrainingOptions { Student = "resnet21" }, folder));
        That(error.Message.Contains("resnet20"));
    });

    public static void Scopes_free_what_they_made()
    {
        long before = torch.Tensor.TotalCount;
        using (var sum = Scopes.Run(() => torch.tensor(new[] { 1.0, 2.0 }) * 2.0))
            Equal([2.0, 4.0], sum.data<double>().ToArray());
        That(torch.Tensor.TotalCount == before);
    }
}
